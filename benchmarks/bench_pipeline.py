"""The whole job, DICOM folder to masks, against a plain MONAI script with the same bundle and weights.

    python -m benchmarks.bench_pipeline [--quick] [--json FILE]

Four systems work on copies of the sample study (two volumes and a localizer each):

  Spark      python -m imaging_pipeline.run --master local[*]
  contents   the same, and Spark hands over the bytes of the files (intake.transport=content)
  no Spark   python -m imaging_pipeline.run --no-spark
  MONAI      benchmarks/peer_monai.py: LoadImage on one folder a series, the bundle's transforms and inferer, SaveImage

The MONAI script is handed what it cannot do itself: series sorted into folders, the localizer left out. Sorting is not
in its time. Each run is a fresh process with an empty output folder. Seconds per series leave start-up out: they are
the slope between a small and a large number of series.
"""

import hashlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.agreement import compare_all
from benchmarks.copies import Case, Runs, make_case
from benchmarks.harness import Options, Row, interleave, parse_options, report, summarise
from benchmarks.measure import ROOT, Command
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.stores import LocalStore

SAMPLE = ROOT / "sample_data" / "studies"
BUNDLE = ROOT / "models" / "hippocampus_mr"
SPARK, NO_SPARK, MONAI = "imaging_pipeline, Spark local[*]", "imaging_pipeline --no-spark", "MONAI script"
CONTENT = "imaging_pipeline, Spark local[*], content"
SYSTEMS = (SPARK, CONTENT, NO_SPARK, MONAI)
OPTIONS_OF = {
    SPARK: ("--master", "local[*]"),
    CONTENT: ("--master", "local[*]", "--set", "intake.transport=content"),
    NO_SPARK: ("--no-spark",),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(__doc__ or "", argv)
    sizes = (1, 4) if options.quick else (4, 40)
    with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as scratch:
        small, large = (make_case(SAMPLE, n, Path(scratch) / f"{n}_copies") for n in sizes)
        commands = {case.key(system): partial(_command, case, system) for case in (small, large) for system in SYSTEMS}
        runs = interleave(commands, options.repeats or (1 if options.quick else 3))
        report("bench_pipeline", _rows(small, large, runs), options, _notes(options))


def _command(case: Case, system: str, number: int) -> Command:
    out = str(case.out(system, number))
    if system == MONAI:
        arguments = ["benchmarks.peer_monai", str(BUNDLE), str(case.copies.split), out]
    else:
        arguments = ["imaging_pipeline.run", str(case.copies.studies), "--out", out, "--model", BUNDLE.name]
        arguments += ["--device", "cpu", *OPTIONS_OF[system]]
    return Command(
        argv=(sys.executable, "-W", "ignore", "-m", *arguments),
        environment={"TMPDIR": str(case.results.parent / "tmp")},
    )


def _rows(small: Case, large: Case, runs: Runs) -> list[Row]:
    figures = {system: {**_slope(small, large, runs, system), **_results(large, system)} for system in SYSTEMS}
    return [
        *summarise(small.name, small.runs(runs, SYSTEMS), peer=MONAI),
        *summarise(large.name, large.runs(runs, SYSTEMS), peer=MONAI, figures=figures),
    ]


def _slope(small: Case, large: Case, runs: Runs, system: str) -> dict[str, float]:
    """Seconds of a further series, and of start-up: the line through a small and a large number of series."""
    n_small, n_large = len(small.copies.series), len(large.copies.series)
    pairs = list(zip(small.runs(runs, SYSTEMS)[system], large.runs(runs, SYSTEMS)[system], strict=True))
    slope = statistics.median((more.seconds - few.seconds) / (n_large - n_small) for few, more in pairs)
    start = statistics.median(few.seconds for few, _ in pairs) - slope * n_small
    return {"seconds_per_series": slope, "start_up_seconds": start}


def _results(case: Case, system: str) -> dict[str, float | int]:
    """Stages of the first round's series, and its masks against those of the MONAI script."""
    if system == MONAI:
        return {}
    out, peer = case.out(system, 0), case.out(MONAI, 0)
    done = {
        item.identity.series_uid: item for item in read_receipts(LocalStore(root=out)) if item.status is Status.DONE
    }
    if done.keys() != case.copies.series.keys():
        raise RuntimeError(f"{system} finished {len(done)} of {case.name}")
    folders = case.copies.series
    found = compare_all((out / done[uid].mask_path, peer / f"{name}_seg.nii.gz") for uid, name in folders.items())
    return {
        "network_seconds": statistics.median(item.stage_seconds["network"] for item in done.values()),
        "other_stage_seconds": statistics.median(_without_network(item) for item in done.values()),
        "masks_compared": found.n_pairs,
        "labelled_voxels": found.n_labelled,
        "different_voxels": found.n_different,
        "smallest_dice": found.smallest_dice,
    }


def _without_network(result: SeriesResult) -> float:
    return sum(value for stage, value in result.stage_seconds.items() if stage not in ("network", "open_model"))


def _notes(options: Options) -> list[str]:
    digest = hashlib.sha256((BUNDLE / "models" / "model.pt").read_bytes()).hexdigest()
    notes = [
        f"bundle {BUNDLE.name}, weights SHA-256 {digest[:16]}, CPU",
        "seconds_per_series, start_up_seconds: slope and intercept of the line through both numbers of series",
        "network_seconds, other_stage_seconds: medians over series, from the receipts; parallel tasks share the cores",
        "masks are compared with the MONAI script's, both in canonical axes",
    ]
    return [*notes, "one round on few series: slope and start-up are mostly noise"] if options.quick else notes


if __name__ == "__main__":
    main()
