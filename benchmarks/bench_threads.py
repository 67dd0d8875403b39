"""Tasks beside each other against threads within one: how the cores of one machine are best spent on a CPU.

    python -m benchmarks.bench_threads [--quick] [--json FILE]

The real job (Spark on local[*], the default model) works on copies of the sample study, two volumes each. All systems
use all cores:

  N tasks x 1 thread     spark.task_cpus=1
  ...                    and the ways between, by powers of two
  1 task x N threads     spark.task_cpus=N

Headers are read by N tasks in each. Seconds per series leave start-up out: they are the slope between a small and a
large number of series.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.copies import Case, Runs, make_case
from benchmarks.harness import Row, interleave, parse_options, report, summarise
from benchmarks.measure import ROOT, Command
from imaging_pipeline.records import Status
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.stores import LocalStore

SAMPLE = ROOT / "sample_data" / "studies"
MODEL = "hippocampus_mr"
N_CORES = len(os.sched_getaffinity(0))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(__doc__ or "", argv)
    sizes = (1, 4) if options.quick else (4, 24)
    with tempfile.TemporaryDirectory(prefix="bench-threads-") as scratch:
        small, large = (make_case(SAMPLE, n, Path(scratch) / f"{n}_copies") for n in sizes)
        commands = {case.key(_way(way)): partial(_command, case, way) for case in (small, large) for way in _ways()}
        runs = interleave(commands, options.repeats or (1 if options.quick else 3))
        figures = {_way(threads): _figures(small, large, runs, threads) for threads in _ways()}
        rows: list[Row] = [
            *summarise(small.name, small.runs(runs, map(_way, _ways())), peer=_way(N_CORES)),
            *summarise(large.name, large.runs(runs, map(_way, _ways())), peer=_way(N_CORES), figures=figures),
        ]
        notes = [f"bundle {MODEL}, CPU, local[{N_CORES}]; network_seconds: medians over the series of the first round"]
        report("bench_threads", rows, options, notes)


def _ways() -> list[int]:
    """Threads a task, from one to all cores."""
    return [*(2**n for n in range(N_CORES.bit_length()) if 2**n < N_CORES), N_CORES]


def _way(threads: int) -> str:
    n_tasks = N_CORES // threads
    return f"{n_tasks} task{'s' * (n_tasks > 1)} x {threads} thread{'s' * (threads > 1)}"


def _command(case: Case, threads: int, number: int) -> Command:
    arguments = ["imaging_pipeline.run", str(case.copies.studies), "--out", str(case.out(_way(threads), number))]
    arguments += ["--model", MODEL, "--device", "cpu", "--master", "local[*]", "--set", f"spark.task_cpus={threads}"]
    return Command(
        argv=(sys.executable, "-W", "ignore", "-m", *arguments),
        environment={"TMPDIR": str(case.results.parent / "tmp")},
    )


def _figures(small: Case, large: Case, runs: Runs, threads: int) -> dict[str, float]:
    n_small, n_large = len(small.copies.series), len(large.copies.series)
    pairs = list(zip(runs[small.key(_way(threads))], runs[large.key(_way(threads))], strict=True))
    slope = statistics.median((more.seconds - few.seconds) / (n_large - n_small) for few, more in pairs)
    done = [item for item in read_receipts(LocalStore(root=large.out(_way(threads), 0))) if item.status is Status.DONE]
    if len(done) != n_large:
        raise RuntimeError(f"{_way(threads)} finished {len(done)} of {n_large} series")
    network = statistics.median(item.stage_seconds["network"] for item in done)
    return {"seconds_per_series": slope, "network_seconds": network}


if __name__ == "__main__":
    main()
