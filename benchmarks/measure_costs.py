"""Measures the costs that `simulate_cluster` calculates with, by the project's own code on this machine.

    python -m benchmarks.measure_costs [--planning] [FILE]

FILE defaults to benchmarks/costs.json. Takes some minutes. All are processor seconds, which other work on the machine
moves little, but for what waits for the disk or for Spark: there the best or the median of several wall times. Stages
come from the receipts of synthetic CTs, one thread, one series after the other so that nothing overlaps, the better of
two runs each.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from scipy.optimize import nnls

from benchmarks.cases_inference import CaseSpec, make_case
from benchmarks.cohort import FEWEST_SLICES, make_smallest
from benchmarks.costs import FILE, Costs, write_costs
from benchmarks.harness import hardware
from benchmarks.peer_instances import make_instances
from imaging_pipeline.bins import deal
from imaging_pipeline.cost import Estimate
from imaging_pipeline.host import peak_rss_mb, reset_peak_rss, versions
from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.copies import mark_copies
from imaging_pipeline.intake.finder import Finder, choose, gather
from imaging_pipeline.intake.headers import read_file
from imaging_pipeline.intake.listing import list_files, list_passed_over
from imaging_pipeline.intake.packets import read_packets
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.intake.rules import SelectionRules
from imaging_pipeline.intake.series import group_series
from imaging_pipeline.job import Job
from imaging_pipeline.partition import process
from imaging_pipeline.records import HeaderRow, SeriesResult, SeriesTask, Status
from imaging_pipeline.results.index import open_index
from imaging_pipeline.results.layout import open_results
from imaging_pipeline.results.receipt import follow_receipts, write_receipt
from imaging_pipeline.runner import LocalRunner
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.settings import Settings, resolve
from imaging_pipeline.sources import open_source
from imaging_pipeline.spark import SparkRunner, open_session
from imaging_pipeline.spark.mappers import opened, sealed
from imaging_pipeline.stores import LocalStore

Figures = dict[str, float]
Step = Callable[[Path], Figures]
_Made = TypeVar("_Made")

KEYS = Keys(b"costs" * 8)
SLICES = (60, 120)
"""Of the synthetic CTs, 512 x 512 each."""
REPEATS = 2
N_INSTANCES, N_SERIES, N_RECEIPTS, N_TASKS, N_WARM = 20_000, 10_000, 2_000, 40, 100
BATCHES = (*(20,) * 40, 1000, 5000, *(20,) * 10, 10_000, *(20,) * 10)
"""Rows of consecutive commits: how a commit's time grows with its rows, with the table, and with earlier commits."""


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", nargs="?", default=FILE)
    parser.add_argument(
        "--planning", action="store_true", help="only what happens before the first task; FILE keeps the other costs"
    )
    arguments = parser.parse_args()
    today = datetime.now(UTC).date().isoformat()
    circumstances: dict[str, object] = {"date": today, "hardware": hardware(), "versions": versions()}
    with tempfile.TemporaryDirectory(prefix="measure-costs-") as scratch:
        if arguments.planning:
            kept = json.loads(arguments.file.read_text(encoding="utf-8"))
            figures = {**kept.pop("costs"), **_measured(_planning(), Path(scratch))}
            circumstances = {**kept, "planning": circumstances}
        else:
            figures = _all(Path(scratch))
    names = {item.name for item in fields(Costs)}
    costs = Costs(**{name: value for name, value in figures.items() if name in names})
    write_costs(costs, circumstances, arguments.file)


def _all(scratch: Path) -> Figures:
    with patch("time.perf_counter", time.process_time):  # by which stages are measured
        results, figures = _stages(scratch)
    print(figures, flush=True)
    rest = (partial(_receipts, result=results[0]), partial(_commits, result=results[0]), _spark)
    pace = {"poll_s": 0.25, "commit_every_s": resolve().index.commit_seconds}
    return {**figures, **_measured([*_planning(), *rest], scratch), **pace}


def _planning() -> list[Step]:
    return [_driver_planning, _driver_listing]


def _measured(steps: Sequence[Step], scratch: Path) -> Figures:
    figures: Figures = {}
    for step in steps:
        found = step(scratch)
        print(found, flush=True)
        figures |= found
    return figures


def _stages(scratch: Path) -> tuple[list[SeriesResult], Figures]:
    """Stages of one series after the other, from their receipts."""
    cases = [make_case(CaseSpec(shape=(512, 512, n), grid_mm=3.0, n_classes=14), scratch) for n in (SLICES[0], *SLICES)]
    settings = resolve(
        options={
            "models.trusted_dirs": [cases[0].bundle.parent],
            "models.backend": "torch",
            "segment.threads": 1,
            "spark_enabled": False,
        }
    )
    out = LocalStore(root=scratch / "results")
    open_results(out)
    job = Job(out=out, run_id="costs", settings=settings, bundle=describe(str(cases[0].bundle), settings.models))
    tasks = [_tasks(case.study, settings)[0] for case in cases]
    results = [_run_alone(task, job, str(number)) for number, task in enumerate(tasks)][1:]  # the first opens the model
    for repeat in range(1, REPEATS):
        again = (_run_alone(task, job, f"{number}x{repeat}") for number, task in enumerate(tasks[1:]))
        results = [_faster(one, other) for one, other in zip(results, again, strict=True)]
    mb = sum(task.size_bytes for task in tasks[1:]) / 1e6
    mvoxel = sum(task.n_voxels for task in tasks[1:]) / 1e6
    written_mb = sum((out.root / item.mask_path).stat().st_size for item in results) / 1e6

    def total(stage: str) -> float:
        return sum(item.stage_seconds[stage] for item in results)

    return results, {
        "decode_s_per_mb": total("decode") / mb,
        "preprocess_s_per_mvoxel": total("preprocess") / mvoxel,
        "restore_s_per_mvoxel": total("postprocess") / mvoxel,
        "write_s_per_mvoxel": total("write") / mvoxel,
        "written_mb_per_mvoxel": written_mb / mvoxel,
    }


def _faster(one: SeriesResult, other: SeriesResult) -> SeriesResult:
    """Each stage as in the run that took less time for it."""
    return replace(
        one,
        stage_seconds={stage: min(seconds, other.stage_seconds[stage]) for stage, seconds in one.stage_seconds.items()},
    )


def _run_alone(task: SeriesTask, job: Job, number: str) -> SeriesResult:
    """Work on one series as a run of its own, so that nothing counts as done.

    Raises:
        RuntimeError: It is not done.
    """
    (result,) = process([task], replace(job, run_id=f"{job.run_id}{number}"))
    if result.status is not Status.DONE:
        raise RuntimeError(f"{result.reason_code}: {result.message}")
    return result


def _driver_listing(scratch: Path) -> Figures:
    """What binaryFile looks up before its first task, by executors mostly, and what the driver walks through."""
    folder = scratch / "instances"
    with open_session(resolve(options={"spark.master": "local[1]"}), scratch / "listing.log") as session:
        reader = session.read.format("binaryFile").option("recursiveFileLookup", True)
        list_s = min(_timed(lambda: reader.load(f"file:{folder}"))[1] for _ in range(5))
    walk_s = min(_timed(lambda: list(list_passed_over(folder)), time.process_time)[1] for _ in range(3))
    return {"list_s_per_file": list_s / N_INSTANCES, "walk_s_per_file": walk_s / N_INSTANCES}


def _driver_planning(scratch: Path) -> Figures:
    """Headers in this process, the driver's part in fresh ones, whose memory nothing else has used."""
    make_instances(scratch / "instances", N_INSTANCES)
    make_smallest(scratch / "smallest", N_SERIES)
    make_smallest(scratch / "warm", N_WARM)
    large, small, warm = (scratch / f"{name}.arrow" for name in ("instances", "smallest", "warm"))
    _, headers_s = _timed(partial(_write_headers, scratch / "instances", large), time.process_time)
    _write_headers(scratch / "smallest", small)
    _write_headers(scratch / "warm", warm)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        many = pool.submit(_plan, large, warm).result()
        few = pool.submit(_plan, small, warm).result()
    n_small = N_SERIES * FEWEST_SLICES
    per_slice_s, per_slice_kb = many["plan_s"] / N_INSTANCES, many["held_kb"] / N_INSTANCES
    return {
        "header_s_per_file": headers_s / N_INSTANCES,
        "find_s_per_slice": many["find_s"] / N_INSTANCES,
        "plan_s_per_slice": per_slice_s,
        "plan_kb_per_slice": per_slice_kb,
        "plan_s_per_series": max(few["plan_s"] - n_small * per_slice_s, 0.0) / N_SERIES,
        "plan_kb_per_series": max(few["held_kb"] - n_small * per_slice_kb, 0.0) / N_SERIES,
    }


def _write_headers(folder: Path, file: Path) -> None:
    """What executors do, task by task: read, pack, hand over."""
    runner, rows_a_task = LocalRunner(), resolve().intake.files_per_partition
    files = runner.list_files(folder, None)
    parts = [files.slice(start, rows_a_task) for start in range(0, files.num_rows, rows_a_task)]
    contents = [sealed(read_packets(part, (), open_source)) for part in parts]
    table = pa.table({"packets": contents})
    with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)


def _plan(file: Path, warm: Path) -> Figures:
    """What happens between packets and the table of tasks: the driver's seconds and KiB at its peak, and the finders'.

    The finders' seconds are an executor's, and what they hold is in the peak all the same: the planes of one series.
    """
    _planned(warm)  # imports, and what is made once
    before_kb = _resident_kb()
    reset_peak_rss()
    begun = time.process_time()
    find_s = _planned(file)
    return {
        "plan_s": time.process_time() - begun - find_s,
        "find_s": find_s,
        "held_kb": peak_rss_mb() * 1024 - before_kb,
    }


def _planned(file: Path) -> float:
    """Seconds that finders took of it."""
    with pa.OSFile(str(file)) as stream:
        rows = pa.ipc.open_stream(stream).read_all()
    packets = Pile.of(opened(content.as_py()) for content in rows["packets"])
    del rows
    parts = [sealed(part) for part in mark_copies(packets.instances()).parts(2)]
    finder = Finder(KEYS, resolve(), SelectionRules(), "none")
    found, find_s = _timed(lambda: [sealed(finder(opened(part))) for part in parts], time.process_time)
    tasks, _ = choose(gather(map(opened, found)), finder.rules)
    seconds = np.fromiter(map(Estimate(outline=None), tasks), np.float64, len(tasks))
    for members in deal(seconds, 2, 4):
        pa.table({"tasks": [task.content for task in tasks.part(tasks.rows[members])]})
    return find_s


def _receipts(scratch: Path, result: SeriesResult) -> Figures:
    out = LocalStore(root=scratch / "receipts")
    open_results(out)
    copies = list(_copies(result, N_RECEIPTS))
    write_s = statistics.median([_timed(partial(write_receipt, out, item))[1] for item in copies])
    pending = {item.identity.series_key for item in copies}
    followed = follow_receipts(out, result.run_id, pending, result.model_name)
    _, read_s = _timed(lambda: next(followed), time.process_time)
    scan_s = min(_timed(lambda: next(followed))[1] for _ in range(20))
    return {
        "receipt_s": write_s,
        "follow_s_per_receipt": read_s / N_RECEIPTS,
        "scan_s_per_receipt": scan_s / N_RECEIPTS,
    }


def _commits(scratch: Path, result: SeriesResult) -> Figures:
    """Least squares over commits of several sizes into a growing table; no cost is negative."""
    index = open_index(LocalStore(root=scratch / "indexed"), "delta")
    measured, held = [], 0
    for number, n in enumerate(BATCHES):
        rows = list(_copies(result, n, first=held))
        _, seconds = _timed(partial(index.commit, rows), time.process_time)
        measured.append((1.0, n, held, number, seconds))
        held += n
    table = np.array(measured[1:])  # the first one makes the table
    (once, per_row, per_held, per_commit), _ = nnls(table[:, :4], table[:, 4])
    return {
        "commit_s": float(once),
        "commit_s_per_row": float(per_row),
        "commit_s_per_indexed_row": float(per_held),
        "commit_s_per_commit": float(per_commit),
    }


def _spark(scratch: Path) -> Figures:
    """Start of a worker with the model, and partitions without work, on one slot."""
    settings = resolve(options={"spark.master": "local[1]", "model": "hippocampus_mr", "models.backend": "torch"})
    out = LocalStore(root=scratch / "spark")
    open_results(out)
    job = Job(out=out, run_id="costs", settings=settings, bundle=describe(settings.model, settings.models))
    with open_session(settings, scratch / "spark.log") as session:
        _, open_s = _timed(lambda: SparkRunner(session, settings).check_model(job))
        parts = session.range(0, N_TASKS, numPartitions=N_TASKS)
        empty = parts.mapInArrow(_nothing, "id long")
        empty.toArrow()
        with_worker_s = min(_timed(empty.toArrow)[1] for _ in range(REPEATS))
        without_s = min(_timed(parts.toArrow)[1] for _ in range(REPEATS))
    return {"open_s": open_s, "task_s": with_worker_s / N_TASKS, "launch_s": without_s / N_TASKS}


def _nothing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from batches


def _tasks(study: Path, settings: Settings) -> tuple[SeriesTask, ...]:
    planes = (row.plane for row in _header_rows(study))
    return group_series((plane for plane in planes if plane is not None), KEYS, settings).tasks


def _header_rows(folder: Path) -> Iterator[HeaderRow]:
    return (row for file in list_files(folder) for row in read_file(file))


def _copies(result: SeriesResult, n: int, first: int = 0) -> Iterator[SeriesResult]:
    for number in range(first, first + n):
        yield replace(result, identity=replace(result.identity, series_key=f"{number:016x}"))


def _timed(work: Callable[[], _Made], clock: Callable[[], float] = time.perf_counter) -> tuple[_Made, float]:
    begun = clock()
    made = work()
    return made, clock() - begun


def _resident_kb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return float(line.split()[1])


if __name__ == "__main__":
    main()
