"""A series that is done says what somebody should look at, and is done all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imaging_pipeline.errors import Code, FlagCode, PipelineError
from imaging_pipeline.records import Finding, Flag, GeometryVerdict
from imaging_pipeline.results.flags import flag_geometry, flag_mask
from imaging_pipeline.results.measure import Measurement, measure
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.labels import Label, read_labels
from imaging_pipeline.settings import ModelSettings, QcSettings
from imaging_pipeline.volume import Volume
from tests.test_results import result

LABELS = (
    Label(index=1, name="left kidney", plausible_ml=(0.05, 0.2)),
    Label(index=2, name="right kidney"),
    Label(index=3, name="spleen"),
)
QC = QcSettings()


def measured(*blocks: tuple[int, tuple[slice, ...]]) -> tuple[Measurement, ...]:
    labels = np.zeros((20, 20, 20), np.uint8)
    for label, place in blocks:
        labels[place] = label
    image = Volume(array=np.zeros(labels.shape, np.int16), affine=np.eye(4))
    return measure(image.with_array(labels), image, LABELS)


def block(label: int, corner: tuple[int, int, int], size: int = 4) -> tuple[int, tuple[slice, ...]]:
    return label, tuple(slice(start, start + size) for start in corner)


WHOLE = (block(1, (2, 2, 2)), block(2, (12, 2, 2)), block(3, (8, 12, 8)))


def flags(*blocks: tuple[int, tuple[slice, ...]], qc: QcSettings = QC) -> dict[FlagCode, Flag]:
    return {flag.code: flag for flag in flag_mask(measured(*blocks), LABELS, qc)}


def test_a_mask_as_it_should_be_has_no_flag() -> None:
    assert flags(*WHOLE) == {}


def test_each_rule_speaks_with_numbers_and_says_what_to_check() -> None:
    cases = {
        FlagCode.EMPTY_MASK: ((), "none of 3 labels", ()),
        FlagCode.LABEL_MISSING: (WHOLE[:2], "1 of 3 labels have no voxel: spleen", ("spleen",)),
        FlagCode.CUT_OFF: (
            (*WHOLE[:2], block(3, (16, 12, 8))),
            "1 of 3 labels touch the volume's border: spleen (right)",
            ("spleen",),
        ),
        FlagCode.IMPLAUSIBLE_VOLUME: (
            (block(1, (2, 2, 2), 6), block(2, (12, 2, 2), 6), WHOLE[2]),
            "left kidney 0.22 ml, plausible 0.05 to 0.2",
            ("left kidney",),
        ),
        FlagCode.ASYMMETRY: (
            (WHOLE[0], block(2, (12, 2, 2), 6), WHOLE[2]),
            "more than 50% of their mean apart: kidney left 0.06 ml, right 0.22 ml",
            ("left kidney", "right kidney"),
        ),
        FlagCode.FRAGMENTED: (
            (*WHOLE, block(3, (2, 14, 2), 2)),
            "1 of 3 labels are in pieces: spleen 2 parts, 89% in the largest",
            ("spleen",),
        ),
    }
    for code, (blocks, message, labels) in cases.items():
        found = flags(*blocks)
        assert set(found) == {code}
        assert (found[code].message.startswith(message), found[code].labels) == (True, labels), found[code]
        assert found[code].hint
    apart = {FlagCode.GEOMETRY, FlagCode.LOW_MEMBER_AGREEMENT}
    assert set(cases) | apart == set(FlagCode), "every code has a story"


def test_labels_on_which_members_agree_too_little_are_named_the_worst_first() -> None:
    def with_agreement(*values: float | None) -> tuple[Measurement, ...]:
        return tuple(replace(item, agreement=value) for item, value in zip(measured(*WHOLE), values, strict=True))

    [flag] = flag_mask(with_agreement(0.79, 0.8, 0.31), LABELS, QC)
    assert flag.code is FlagCode.LOW_MEMBER_AGREEMENT
    assert flag.message == (
        "networks or mirror images agree on 2 of 3 labels by a Dice below 0.8: spleen 0.31, left kidney 0.79"
    )
    assert flag.labels == ("spleen", "left kidney")
    assert "slice by slice" in flag.hint
    assert not list(flag_mask(with_agreement(None, None, None), LABELS, QC)), "one network that looks once"
    assert not list(flag_mask(with_agreement(0.0, 0.0, 0.0), LABELS, QcSettings(min_agreement=0)))
    lost = [replace(item, n_voxels=0) if item.name == "spleen" else item for item in with_agreement(1.0, 1.0, 0.0)]
    assert {flag.code for flag in flag_mask(lost, LABELS, QC)} == {FlagCode.LABEL_MISSING}


def test_settings_move_thresholds_and_silence_rules() -> None:
    uneven = (WHOLE[0], block(2, (12, 2, 2), 6), block(3, (16, 12, 8)), block(3, (2, 14, 2), 2))
    assert set(flags(*uneven)) == {FlagCode.ASYMMETRY, FlagCode.CUT_OFF, FlagCode.FRAGMENTED}
    assert flags(*uneven, qc=QcSettings(cut_off=False, asymmetry=1.5, min_largest_share=0.5)) == {}
    assert flags(WHOLE[2], qc=QcSettings(missing_labels=False)) == {}


def test_a_repaired_geometry_is_flagged_with_its_findings() -> None:
    finding = Finding(code=Code.MISSING_SLICES, message="1 of 20 slices filled in")
    [flag] = flag_geometry(replace(result(), geometry_verdict=GeometryVerdict.REPAIRED, findings=(finding,)))
    assert flag.message == "geometry REPAIRED: missing-slices: 1 of 20 slices filled in"
    assert list(flag_geometry(result())) == []


@pytest.mark.parametrize(("low", "high"), [("2", "1"), ("1", ""), ("-1", "2"), ("a", "b"), ("nan", "2")])
def test_a_plausible_volume_that_is_no_range_is_refused(low: str, high: str, tmp_path: Path) -> None:
    table = tmp_path / "labels.tsv"
    table.write_text(f"index\tname\tplausible_min_ml\tplausible_max_ml\n1\tliver\t{low}\t{high}\n")
    with pytest.raises(PipelineError, match="plausible volume of 'liver'") as refused:
        read_labels(table)
    assert refused.value.code is Code.MODEL_INVALID


def test_the_default_model_says_what_is_plausible() -> None:
    labels = describe("hippocampus_mr", ModelSettings()).labels
    assert [label.plausible_ml for label in labels] == [(0.9, 2.95), (0.87, 2.39)]
