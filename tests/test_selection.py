"""Selection by rules: conditions, preferences, and a reason for everyone that is left out."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.attributes import Kind, find_attribute
from imaging_pipeline.intake.copies import mark_copies
from imaging_pipeline.intake.finder import Finder, gather
from imaging_pipeline.intake.finder import choose as choose_among
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.intake.rules import Condition, SelectionRules, read_rules
from imaging_pipeline.records import SeriesTask, SkippedSeries
from imaging_pipeline.runner import LocalRunner
from imaging_pipeline.settings import resolve
from imaging_pipeline.sources import open_source
from sample_data.phantom import CtSpec, write_ct, write_enhanced_ct
from tests.conftest import ROOT, Finished

SPEC = CtSpec(shape=(16, 12, 6), spacing_mm=(2.0, 2.0, 3.0))
THIN = dataclasses.replace(SPEC, shape=(16, 12, 18), spacing_mm=(2.0, 2.0, 1.0))
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Series numbers that were taken, and what the others were told."""

    taken: list[int | None]
    refused: dict[int | None, SkippedSeries]

    def message(self, number: int) -> str:
        return self.refused[number].message


def rules_of(text: str, folder: Path) -> SelectionRules:
    path = folder / "selection.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return read_rules(path)


def choose(studies: Path, text: str) -> Outcome:
    """What rules make of all files below a folder."""
    rules = rules_of(text, studies.parent)
    packets = LocalRunner().read_headers(LocalRunner().list_files(studies, None), rules.keywords(), open_source)
    finder = Finder(Keys(b"0" * 16), resolve(), rules, "demo")
    found = gather(map(finder, mark_copies(Pile.of(packets).instances()).parts(1)))
    series = [item.unpack() for item in chain(*choose_among(found, rules))]
    taken = [item for item in series if isinstance(item, SeriesTask)]
    refused = [item for item in series if isinstance(item, SkippedSeries)]
    assert {item.code for item in refused} <= {Code.NOT_SELECTED}
    assert all(item.hint for item in refused)
    return Outcome(
        sorted((task.identity.series_number for task in taken), key=str),
        {item.identity.series_number: item for item in refused},
    )


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    return tmp_path / "studies"


def write(studies: Path, number: int, spec: CtSpec = SPEC, **changes: object) -> None:
    changed = dataclasses.replace(spec, series_number=number, **changes)  # type: ignore[arg-type]
    write_ct(changed, studies / f"{changed.seed}_{changed.patient_id}_{number}")


def test_of_two_reconstructions_of_one_study_the_thinner_one_is_taken(studies: Path) -> None:
    write(studies, 2)
    write(studies, 4, THIN)
    outcome = choose(studies, "{take: best, prefer: [thinnest_slices]}")
    assert outcome.taken == [4]
    assert outcome.message(2) == "lost to series 4: slices of 1.0 mm beat 3.0 mm"


def test_thick_slabs_at_small_steps_and_thin_slices_with_gaps_are_not_thin(studies: Path) -> None:
    write(studies, 1, THIN, extra={"SliceThickness": "10"})
    write(studies, 2, extra={"SliceThickness": "0.6"})
    write(studies, 3, dataclasses.replace(SPEC, spacing_mm=(2.0, 2.0, 2.0)), extra={"SliceThickness": None})
    outcome = choose(studies, "{take: best, prefer: [thinnest_slices]}")
    assert outcome.taken == [3]
    assert outcome.message(1) == "lost to series 3: slices of 2.0 mm beat 10.0 mm"
    assert outcome.message(2) == "lost to series 3: slices of 2.0 mm beat 3.0 mm"


def test_a_study_never_competes_with_another_unless_the_subject_is_what_counts(studies: Path) -> None:
    write(studies, 1, seed=1)
    write(studies, 2, THIN, seed=1)
    write(studies, 3, seed=2)
    write(studies, 4, seed=2, patient_id="OTHER")
    assert choose(studies, "{take: best, prefer: [thinnest_slices]}").taken == [2, 3, 4]
    by_subject = choose(studies, "{take: best, per: subject, prefer: [thinnest_slices]}")
    assert by_subject.taken == [2, 4]
    assert by_subject.message(3) == "lost to series 2: slices of 1.0 mm beat 3.0 mm"


def test_series_of_no_known_study_or_of_different_patients_never_compete(studies: Path) -> None:
    for number in (1, 2):
        nobody = {"StudyInstanceUID": None, "PatientID": None}
        write(studies, number, series_uid=f"1.2.3.{number}", extra=nobody)
    for number, patient in ((3, "ONE"), (4, "TWO")):
        write(studies, number, patient_id=patient, study_uid="1.2.3", series_uid=f"1.2.3.{number}")
    for per in ("study", "subject"):
        assert choose(studies, f"{{take: best, per: {per}}}").taken == [1, 2, 3, 4]


def test_kernels_are_preferred_in_the_order_of_the_list(studies: Path) -> None:
    for number, kernel in ((1, "B70f"), (2, "B31f"), (3, "standard"), (4, None)):
        write(studies, number, extra={"ConvolutionKernel": kernel})
    rules = "{take: best, prefer: [{ConvolutionKernel: [STANDARD, {matches: ^B3}]}]}"
    outcome = choose(studies, rules)
    assert outcome.taken == [3]
    assert outcome.message(2) == "lost to series 3: ConvolutionKernel standard (choice 1) beats B31f (choice 2)"
    assert outcome.message(1).endswith("standard (choice 1) beats B70f (no choice)")
    assert outcome.message(4).endswith("standard (choice 1) beats no choice")


def test_the_first_preference_in_which_two_differ_decides(studies: Path) -> None:
    write(studies, 1, THIN, image_type=("DERIVED", "SECONDARY", "MPR"))
    write(studies, 2)
    write(studies, 3, dataclasses.replace(SPEC, shape=(16, 12, 8)))
    write(studies, 4, dataclasses.replace(SPEC, shape=(20, 12, 8)))
    rules = "{take: best, prefer: [original, most_slices, largest_field_of_view, newest]}"
    outcome = choose(studies, rules)
    assert outcome.taken == [4]
    assert outcome.message(1) == "lost to series 4: original beats derived"
    assert outcome.message(2) == "lost to series 4: 8 slices beat 6"
    assert outcome.message(3) == "lost to series 4: field of view 24 x 40 x 24 mm beats 24 x 32 x 24 mm"


def test_what_no_preference_decides_the_series_number_does_and_says_so(studies: Path) -> None:
    for number in (7, 9, 5, 6, 10, 8):
        write(studies, number)
    assert choose(studies, "take: best").message(7) == (
        "lost to series 5: equal in all that is preferred, the lower series number is taken"
    )
    assert choose(studies, "{take: best, prefer: [newest]}").message(5) == (
        "lost to series 10: series number 10 beats 5"
    )


def test_series_of_one_number_are_told_apart_by_their_keys(studies: Path) -> None:
    write(studies, 1)
    write_ct(dataclasses.replace(SPEC, series_uid="1.2.3.4"), studies / "other")
    outcome = choose(studies, "take: best")
    assert outcome.taken == [1]
    lost = outcome.message(1)
    assert lost.startswith("lost to series 1 (")
    assert lost.endswith("the lower series key is taken")


def test_any_number_can_be_made_the_smallest_or_the_largest(studies: Path) -> None:
    write(studies, 1, extra={"ReconstructionDiameter": "350", "StudyDate": "20200101"})
    write(studies, 2, extra={"ReconstructionDiameter": "200", "StudyDate": "20210101"})
    write(studies, 3, extra={"StudyDate": None})
    outcome = choose(studies, "{take: best, prefer: [{smallest: ReconstructionDiameter}]}")
    assert outcome.message(1) == "lost to series 2: ReconstructionDiameter 200 beats 350"
    assert outcome.message(3) == "lost to series 2: ReconstructionDiameter 200 beats none"
    latest = choose(studies, "{take: best, prefer: [{largest: StudyDate}]}")
    assert latest.message(1) == "lost to series 2: the larger StudyDate beats another"


def test_without_rules_everything_is_taken(studies: Path) -> None:
    write(studies, 1)
    write(studies, 2, modality="MR")
    assert choose(studies, "").taken == [1, 2]
    assert read_rules(None) == SelectionRules()
    assert SelectionRules().keywords() == frozenset()


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("modality: MR", "modality CT, MR is taken"),
        ("modality: {in: [MR, PT]}", "modality CT, MR or PT is taken"),
        ("modality: {not: ct}", "modality CT is excluded (ct)"),
        ("n_slices: {min: 20}", "number of slices 6, at least 20 is taken"),
        ("n_slices: 7", "number of slices 6, 7 is taken"),
        ("n_voxels: {max: 1000}", "number of voxels 1152, at most 1000 is taken"),
        ("field_of_view_mm: {min: 20, max: 30}", "field of view 24 x 32 x 18 mm, 20 to 30 mm is taken"),
        ("spacing_mm: {max: 2.5}", "spacing 2 x 2 x 3 mm, at most 2.5 mm is taken"),
        ("slice_spacing_mm: {max: 2.5}", "slice spacing 3 mm, at most 2.5 mm is taken"),
        ("pixel_spacing_mm: {min: 2.5}", "pixel spacing 2 x 2 mm, at least 2.5 mm is taken"),
        ("orientation: coronal", "orientation axial, coronal is taken"),
        ("original: no", "original yes, no is taken"),
        ("KVP: {in: [80, 100]}", "KVP 120, 80 or 100 is taken"),
        ("ImageType: SECONDARY", r"ImageType ORIGINAL\PRIMARY\AXIAL, SECONDARY is taken"),
        ("ConvolutionKernel: {matches: ^B3}", "ConvolutionKernel B70f does not match /^B3/"),
        ("ScanOptions: HELIX", "ScanOptions is absent, HELIX is taken"),
        ("SeriesDescription: Head", "SeriesDescription does not fit, a listed value is taken"),
        ("SeriesDescription: {matches: chest}", "SeriesDescription does not match /chest/"),
        ("PatientName: {matches: Doe}", "PatientName does not fit, what the rules name is taken"),
        ("PatientAge: {min: 18}", "PatientAge does not fit, what the rules name is taken"),
        ("StudyDate: {min: 20210101}", "StudyDate does not fit, at least 20210101 is taken"),
    ],
)
def test_a_condition_that_is_not_met_says_the_value_and_what_is_taken(condition: str, says: str, studies: Path) -> None:
    write(studies, 1, extra={"ConvolutionKernel": "B70f", "PatientAge": "204M"})
    outcome = choose(studies, f"require: {{{condition}}}")
    assert outcome.message(1) == f"model demo: {says}"
    assert choose(studies, f"exclude: {{{condition}}}").taken == [1]


@pytest.mark.parametrize(
    "condition",
    [
        "modality: ct",
        "slice_spacing_mm: {min: 3, max: 3}",
        "spacing_mm: {min: 2, not: {min: 4}}",
        "KVP: 120",
        "ConvolutionKernel: {in: [STANDARD, b70F], not: {matches: ^B3}}",
        'ConvolutionKernel: {matches: "^b\\\\d0"}',
        "ImageType: primary",
        "ImageType: ORIGINAL\\PRIMARY\\AXIAL",
        "ImageType: {matches: ORIGINAL.*AXIAL}",
        "ContrastBolusAgent: {not: {matches: .}}",
        "SeriesNumber: 1",
        "SliceThickness: {max: 3}",
        "PatientAge: {min: 16.9, max: 17.1}",
        "StudyDate: {min: 20200101, max: 20200131}",
        "Rows: 16",
        "SmallestImagePixelValue: {not: {min: 0}}",
    ],
)
def test_a_condition_that_is_met_takes_the_series_and_as_an_exclusion_leaves_it_out(
    condition: str, studies: Path
) -> None:
    write(studies, 1, extra={"ConvolutionKernel": "B70f", "PatientAge": "204M"})
    assert choose(studies, f"require: {{{condition}}}").taken == [1]
    assert "is excluded" in choose(studies, f"exclude: {{{condition}}}").message(1)


def test_a_regular_expression_leaves_out_lung_kernels_and_scouts_by_description(studies: Path) -> None:
    write(studies, 1, description="Thorax 3.0 Soft")
    write(studies, 2, description="Thorax 1.0 LUNG")
    outcome = choose(studies, "exclude: {SeriesDescription: {matches: lung|scout}}")
    assert outcome.taken == [1]
    assert outcome.message(2) == "model demo: SeriesDescription is excluded (a match of /lung|scout/)"


def test_no_message_tells_what_free_text_or_the_patient_module_holds(studies: Path) -> None:
    marked = {
        "SeriesDescription": "NAMEMARK thorax",
        "StudyDescription": "NAMEMARK chest",
        "ProtocolName": "NAMEMARK",
        "PatientName": "NAMEMARK^Jane",
        "PatientID": "NAMEMARK77",
        "PatientComments": "NAMEMARK",
        "AccessionNumber": "NAMEMARK",
        "OperatorsName": "NAMEMARK",
        "ConvolutionKernel": "<NAMEMARK & son>",
        "RequestedProcedureDescription": "NAMEMARK",
        "ImageComments": "NAMEMARK",
    }
    write(studies, 1, extra=marked)
    write(studies, 2, extra=dict.fromkeys(marked, "x"))
    texts = []
    for name in marked:
        for rules in (
            f"require: {{{name}: y}}",
            f"require: {{{name}: {{matches: yy}}}}",
            f"require: {{{name}: {{not: {{matches: M.RK}}}}}}",
            f"exclude: {{{name}: {{in: ['{marked[name]}', x]}}}}",
            f"{{take: best, per: study, prefer: [{{{name}: [y, x, {{matches: M.RK}}]}}]}}",
            f"{{take: best, prefer: [{{{name}: [{{matches: M.RK}}, x]}}]}}",
        ):
            texts += [item.message + item.hint for item in choose(studies, rules).refused.values()]
    assert len(texts) > 70
    assert [text for text in texts if "NAMEMARK" in text and not text.count("ConvolutionKernel")] == []
    listed = [text for text in texts if "NAMEMARK" in text]
    assert all("is excluded (<NAMEMARK & son> or x)" in text for text in listed), "only what the rules themselves say"


def test_orientation_is_axial_under_any_gantry_tilt_and_oblique_beyond(studies: Path) -> None:
    for number, tilt in ((1, 0.0), (2, 30.0), (3, 40.0)):
        write(studies, number, tilt_deg=tilt)
    write(studies, 4, orientation=CORONAL)
    write(studies, 5, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    assert choose(studies, "require: {orientation: axial}").taken == [1, 2]
    assert choose(studies, "require: {orientation: oblique}").taken == [3]
    assert choose(studies, "require: {orientation: coronal}").taken == [4]
    assert choose(studies, "require: {orientation: sagittal}").taken == [5]


def test_frames_of_an_enhanced_instance_meet_the_same_conditions(studies: Path) -> None:
    write_enhanced_ct(SPEC, studies / "enhanced.dcm")
    assert choose(studies, "require: {SliceThickness: 3, n_slices: 6, modality: CT, slice_spacing_mm: 3}").taken == [1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("require: {ConvolutonKernel: B30f}", "require.ConvolutonKernel: unknown attribute ConvolutonKernel; did you"),
        ("require: {ConvolutonKernel: B30f}", "did you mean ConvolutionKernel"),
        ("require: {slices: 3}", "did you mean n_slices"),
        ("exclude: {qqqq: 3}", "known: modality, n_slices"),
        ("requires: {modality: CT}", "unknown key requires; known here: require, exclude, prefer, take, per"),
        ("require: {KVP: {mim: 3}}", "unknown key require.KVP.mim; known here: equals, in, min, max, matches, not"),
        ("require: {KVP: {min: high}}", "require.KVP.min = 'high'"),
        ("require: {KVP: {min: 3, max: 1}}", "no number lies between min 3 and max 1"),
        ("require: {KVP: {}}", "require.KVP: asks for nothing"),
        ("require: {KVP: [80, 100]}", "require.KVP: a list is no condition: write {in: [...]}"),
        ("require: {KVP: high}", "KVP is a number, not 'high'"),
        ("require: {KVP: {matches: 1}}", "require.KVP.matches = 1"),
        ("require: {KVP: {matches: '1'}}", "KVP is no text: matches does not apply"),
        ("require: {modality: {max: 3}}", "modality is no number: min and max do not apply"),
        ("require: {ScanOptions: NO}", "ScanOptions is text (quote it), not 'no'"),
        ("require: {orientation: axail}", "known: sagittal, coronal, axial, oblique"),
        ("require: {original: 1}", "original is yes or no, not '1'"),
        ("require: {StudyDate: 2020-01-01}", "neither text, a number, nor yes or no"),
        ("require: {ProtocolName: {matches: '['}}", "require.ProtocolName.matches: is no regular expression"),
        ("require: {ReferencedImageSequence: 1}", "holds neither text nor numbers, but SQ"),
        ("require: {PixelData: 1}", "holds neither text nor numbers"),
        ("take: most", "take = 'most': Input should be 'all' or 'best'"),
        ("prefer: [original]", "write take: best"),
        ("{take: best, prefer: [thinest]}", "prefer.0: 'thinest' is no preference; known: thinnest_slices"),
        ("{take: best, prefer: [{smallest: modality}]}", "modality is no number: smallest does not apply"),
        ("{take: best, prefer: [{Kernel: [a]}]}", "unknown attribute Kernel"),
        ("{take: best, prefer: [{KVP: []}]}", "KVP: an empty list prefers nothing"),
        ("{take: best, prefer: [{smallest: [KVP]}]}", "prefer.0.attribute"),
        ("- 1", "Input should be a valid dictionary"),
        ("a: [", "is no YAML"),
    ],
)
def test_rules_that_cannot_work_are_refused_with_their_place_and_what_is_allowed(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(PipelineError) as refused:
        rules_of(text, tmp_path)
    assert refused.value.code is Code.MODEL_INVALID
    assert says in refused.value.message
    with pytest.raises(PipelineError) as overridden:
        read_rules(None, tmp_path / "selection.yaml")
    assert overridden.value.code is Code.SETTINGS_INVALID


def test_rules_name_the_keywords_that_headers_are_to_be_read_with() -> None:
    rules = read_rules(None, ROOT / "conf" / "selection" / "thinnest_ct.yaml")
    assert rules.keywords() == {"ConvolutionKernel"}
    rules = read_rules(None, ROOT / "conf" / "selection" / "newest_t1.yaml")
    assert rules.keywords() == {"RepetitionTime", "ContrastBolusAgent", "StudyDate"}


@given(
    st.lists(st.sampled_from([1.0, 2.0, 5.0, 7.5]), max_size=3),
    st.sampled_from([1.0, 2.0, 5.0]),
    st.sampled_from([0.0, 2.5]),
)
def test_not_is_the_opposite_whatever_the_values(values: list[float], low: float, width: float) -> None:
    condition = Condition(min=low, max=low + width)
    negated = Condition.model_validate({"not": {"min": low, "max": low + width}})
    met = bool(values) and all(low <= value <= low + width for value in values)
    assert (condition.broken(tuple(values)) is None) is met
    assert (negated.broken(tuple(values)) is None) is not met


def test_every_attribute_of_the_dictionary_is_either_usable_or_refused() -> None:
    assert find_attribute("RepetitionTime").kind is Kind.NUMBER
    assert find_attribute("ScanOptions").kind is Kind.TEXT
    for name in ("OverlayRows", "ReferencedImageSequence", "PixelData", ""):
        with pytest.raises(ValueError, match=r"unknown attribute|holds neither"):
            find_attribute(name)


@pytest.fixture
def two_reconstructions(studies: Path) -> Path:
    write(studies, 2, description="Thorax NAMEMARK")
    write(studies, 4, THIN, extra={"ConvolutionKernel": "B30f"})
    write(studies, 5, extra={"ConvolutionKernel": "B70f"})
    rules = "{exclude: {ConvolutionKernel: B70f}, take: best, prefer: [thinnest_slices]}"
    (studies.parent / "best.yaml").write_text(rules)
    return studies


def test_the_dry_run_and_the_index_give_every_candidates_verdict(
    two_reconstructions: Path, pipeline: Callable[..., Finished], tmp_path: Path
) -> None:
    rules = tmp_path / "best.yaml"
    options = ("--out", tmp_path / "out", "--no-spark", "--model", "none", "--set", f"selection.file={rules}")
    dry = pipeline(two_reconstructions, *options, "--dry-run")
    assert dry.code == 0, dry.err
    assert dry.out.count("taken: 12 x 16 x 18") == 1
    assert "skipped: not-selected: lost to series 4: slices of 1.0 mm beat 3.0 mm" in dry.out
    assert "skipped: not-selected: best.yaml: ConvolutionKernel B70f is excluded (B70f)" in dry.out
    assert "NAMEMARK" not in dry.out
    assert pipeline(two_reconstructions, *options).code == 0
    rows = {
        row["series_number"]: row for row in DeltaTable(str(tmp_path / "out" / "index")).to_pyarrow_table().to_pylist()
    }
    assert {number: row["status"] for number, row in rows.items()} == {2: "skipped", 4: "done", 5: "skipped"}
    assert rows[2]["reason_code"] == "not-selected"
    assert rows[2]["message"] == "lost to series 4: slices of 1.0 mm beat 3.0 mm"
    assert rows[2]["hint"] == "take: all in the rules takes every series of a study"


def test_a_rerun_under_other_rules_takes_what_they_take_now(
    two_reconstructions: Path, pipeline: Callable[..., Finished], tmp_path: Path
) -> None:
    rules = tmp_path / "best.yaml"
    options = ("--out", tmp_path / "out", "--no-spark", "--model", "none", "--set", f"selection.file={rules}")
    assert "1 done, 0 already done, 2 skipped" in pipeline(two_reconstructions, *options).out
    rules.write_text("exclude: {ConvolutionKernel: B70f}")
    assert "1 done, 1 already done, 1 skipped" in pipeline(two_reconstructions, *options).out


@pytest.mark.spark
@pytest.mark.slow
def test_spark_reads_the_attributes_that_rules_ask_for(
    two_reconstructions: Path, pipeline: Callable[..., Finished], tmp_path: Path
) -> None:
    rules = tmp_path / "best.yaml"
    options = ("--out", tmp_path / "out", "--model", "none", "--set", f"selection.file={rules}", "--dry-run")
    spark, local = (pipeline(two_reconstructions, *options, *more) for more in ((), ("--no-spark",)))
    assert spark.code == local.code == 0, spark.err
    assert "ConvolutionKernel B70f is excluded" in spark.out
    assert spark.out.count("not-selected") == local.out.count("not-selected") == 2


def test_unusable_rules_end_the_run_before_a_file_is_read(
    pipeline: Callable[..., Finished], sample: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("require: {Modalty: CT}")
    for path, says in ((bad, "did you mean modality?"), (tmp_path / "absent.yaml", "cannot be read")):
        done = pipeline(sample, "--out", tmp_path / "out", "--no-spark", "--set", f"selection.file={path}")
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert "settings-invalid" in done.err
        assert says in done.err
