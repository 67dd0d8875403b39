"""What Spark adds to the work itself, how evenly it spreads it, and what its driver holds.

    python -m benchmarks.bench_spark [--quick] [--json FILE] [--repeats N]

Four cases, each run of them the real command in a fresh process with an empty output folder:

  mixed     MR series of mixed and skewed size to masks: Spark on two cores, and the same partitions in two processes
            of plain Python that take bins from a shared queue
  scaling   the same series on local-cluster with one and with two executors of one core, and in one process and in two
            of plain Python: what two cores of this machine are worth
  listing   a folder of many instances to series, as `bench_intake` reads it; here also by workers that are up already
  driver    few and many of the smallest series (three slices) to volumes: what the driver holds for each series more

Seconds are those from an open session to the index's last row; the start of the session stands beside them. Plain
Python has no session; its processes start, and import, within its seconds, as Spark's workers do within Spark's.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.cohort import FEWEST_SLICES, LARGE_SHARE, make_mixed, make_smallest
from benchmarks.harness import Row, interleave, parse_options, report, summarise
from benchmarks.measure import DRIVER, DRIVER_JVM, Command
from benchmarks.peer_account import Account, read_account
from benchmarks.peer_instances import make_instances
from benchmarks.systems_spark import ONE, POOL, SINGLE, SPARK, TWO, Figures, run_systems, with_figures

MODEL = "hippocampus_mr"
ARGUMENTS = ("--model", MODEL, "--device", "cpu", "--set", "models.backend=torch")
LOCAL_INTAKE, SPARK_INTAKE = "LocalRunner", "SparkRunner, local[2]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much there is to do.

    Attributes:
        mixed: Series of mixed size.
        scaled: Of them for one and two executors, which take longest.
        instances: Files to list.
        few: Of the smallest series.
        many: Of them for the second look at the driver.
        repeats: Rounds.
        cluster_repeats: Rounds of one and two executors.
    """

    mixed: int
    scaled: int
    instances: int
    few: int
    many: int
    repeats: int
    cluster_repeats: int


FULL = Sizes(mixed=200, scaled=60, instances=20_000, few=200, many=20_000, repeats=3, cluster_repeats=1)
QUICK = Sizes(mixed=10, scaled=0, instances=1_000, few=20, many=80, repeats=1, cluster_repeats=0)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(__doc__ or "", argv)
    sizes = QUICK if options.quick else FULL
    sizes = replace(sizes, repeats=options.repeats or sizes.repeats)
    with tempfile.TemporaryDirectory(prefix="bench-spark-") as scratch:
        rows = [row for measured in CASES.values() for row in measured(sizes, Path(scratch))]
    report("bench_spark", rows, options, _notes(sizes))


def _mixed(sizes: Sizes, scratch: Path) -> list[Row]:
    """Spark's part, and the balance of the bins."""
    studies = scratch / "mixed"
    make_mixed(studies, sizes.mixed)
    case, where = f"{sizes.mixed} mixed series", scratch / "mixed-results"
    return run_systems(case, [SPARK, POOL], (str(studies), *ARGUMENTS), sizes.repeats, where, POOL)


def _scaling(sizes: Sizes, scratch: Path) -> list[Row]:
    """One executor and two, one process and two."""
    if not sizes.cluster_repeats:
        return []
    studies = scratch / "scaling"
    make_mixed(studies, sizes.scaled)
    case, where = f"{sizes.scaled} mixed series, scaling", scratch / "scaling-results"
    systems = [ONE, TWO, SINGLE, POOL]
    return _scaled(run_systems(case, systems, (str(studies), *ARGUMENTS), sizes.cluster_repeats, where, POOL))


def _scaled(rows: Sequence[Row]) -> list[Row]:
    """The step that works series through: two executors by one, two processes by one."""
    seconds = {row.system: float(row.figures["results_s"]) for row in rows}
    one_of = {TWO.name: ONE.name, POOL.name: SINGLE.name}
    faster = {two: seconds[one] / seconds[two] for two, one in one_of.items()}
    return [with_figures(row, faster_than_one=faster[row.system]) if row.system in faster else row for row in rows]


def _driver(sizes: Sizes, scratch: Path) -> list[Row]:
    """Few and many series; what the driver and its JVM hold for each one more."""
    rows = []
    for n in (sizes.few, sizes.many):
        studies = scratch / f"smallest{n}"
        make_smallest(studies, n)
        arguments = (str(studies), "--model", "none")
        rows += run_systems(f"{n} smallest series", [SPARK], arguments, 1, scratch / f"smallest{n}-results", SPARK)
    few, many = rows
    grown = {
        f"{role}_kb_a_series": 1024
        * (float(many.figures[f"{role}_mb"]) - float(few.figures[f"{role}_mb"]))
        / (sizes.many - sizes.few)
        for role in (DRIVER, DRIVER_JVM)
    }
    return [few, with_figures(many, **grown)]


def _listing(sizes: Sizes, scratch: Path) -> list[Row]:
    """Intake, with Spark and without."""
    folder, out = scratch / "instances", scratch / "accounts"
    out.mkdir()
    make_instances(folder, sizes.instances)
    case = f"{sizes.instances} instances to series"
    print(case, flush=True)
    readers = {LOCAL_INTAKE: "local", SPARK_INTAKE: "spark"}
    runs = interleave(
        {name: partial(_intake_command, reader, folder, out) for name, reader in readers.items()}, sizes.repeats
    )
    work, figures = {}, {}
    for name, reader in readers.items():
        told = [read_account(out / f"{reader}_{number}.json") for number in range(sizes.repeats)]
        seconds = [item.parts.get("again_intake_s", item.work_seconds) for item in told]
        work[name] = [replace(run, seconds=value) for run, value in zip(runs[name], seconds, strict=True)]
        figures[name] = _intake_figures(told, seconds, sizes.instances, n_cores=1 if reader == "local" else 2)
    return summarise(case, work, peer=LOCAL_INTAKE, figures=figures)


def _intake_command(reader: str, folder: Path, out: Path, number: int) -> Command:
    peer = ("benchmarks.peer_intake", reader, str(folder), str(out / f"{reader}_{number}.json"))
    return Command(argv=(sys.executable, "-W", "ignore", "-m", *peer))


def _intake_figures(told: Sequence[Account], seconds: Sequence[float], n: int, n_cores: int) -> Figures:
    wrong = [item for item in told if item.refusal or item.parts["instances"] != n]
    if wrong:
        raise RuntimeError(f"{n} instances: {wrong[0].refusal or wrong[0].parts}")
    figures: Figures = {
        "session_s": statistics.median(item.parts.get("session_s", 0.0) for item in told),
        "first_intake_s": statistics.median(item.work_seconds for item in told),
        "files_per_second_and_core": statistics.median(n / value / n_cores for value in seconds),
    }
    for name in ("listing_s", "reading_s", "grouping_s", "jvm_listing_s"):
        found = [item.parts.get(f"again_{name}", item.parts.get(name, 0.0)) for item in told]
        figures[name] = statistics.median(found)
    return figures


def _notes(sizes: Sizes) -> list[str]:
    return [
        f"mixed series: MR of 1 mm, log-normal edges about 34, {LARGE_SHARE:.0%} of them 80 x 80 x 80; {MODEL}, torch, "
        "one thread a task",
        f"smallest series: {FEWEST_SLICES} slices of 16 x 16 pixels, volumes only",
        "seconds: from an open session to the index's last row; check_s: every slot opens the model",
        "makespan_to_ideal: time of the series' step by the mean busy time of a slot",
        "between_bins_s: what a slot spends for each bin beside its work; predicted_s: the plan's guess, default rates",
        "cpu_s: processor seconds of all processes, start and imports included: hardly moved by other work here",
        "memory by role: the largest that the role's processes held at once; workers: of Spark or of the pool",
        "faster_than_one: seconds of the series' step with one executor or process by those with two",
        "of intake, seconds are those by workers that are up already; first_intake_s: by a fresh session",
        "jvm_listing_s: the same listing by Spark alone; headers_s: listing, headers and series",
    ] + ([] if sizes.cluster_repeats else ["one round on few series: what Spark adds is mostly start-up; no clusters"])


CASES = {"mixed": _mixed, "scaling": _scaling, "listing": _listing, "driver": _driver}

if __name__ == "__main__":
    main()
