"""Headers per second on one core, and intake of a whole folder with and without Spark.

    python -m benchmarks.bench_intake [--quick] [--json FILE]

First, one process reads the headers of files that lie in the page cache: our `read_header` against pydicom's dcmread,
told to stop before the pixels, with and without the tags that it needs. Then all of intake, from a folder's name to
series: listing, headers and grouping through the runner without Spark and through Spark on two cores.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, interleave, parse_options, report, summarise
from benchmarks.measure import Command, Measurement
from benchmarks.peer_account import Account, read_account
from benchmarks.peer_instances import N_SLICES, make_instances
from benchmarks.peer_intake import MASTER

OURS, PYDICOM = "read_header", "pydicom"
READERS = {OURS: OURS, "pydicom, specific_tags": "pydicom_tags", PYDICOM: PYDICOM}
LOCAL = "LocalRunner"
RUNNERS = {LOCAL: "local", f"SparkRunner, {MASTER}": "spark"}
GOAL_PER_SECOND = 2500


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(__doc__ or "", argv)
    n = 2_000 if options.quick else 20_000
    repeats = options.repeats or (3 if options.quick else 5)
    with tempfile.TemporaryDirectory(prefix="bench-intake-") as scratch:
        folder, out = Path(scratch) / "studies", Path(scratch) / "accounts"
        out.mkdir()
        header_bytes = make_instances(folder, n)
        rows = _measure(f"{n} headers, one core", READERS, PYDICOM, folder, repeats)
        rows += _measure(f"{n} instances to series", RUNNERS, LOCAL, folder, repeats)
    ours = float(rows[0].figures["per_second"])
    notes = [
        f"goal, {GOAL_PER_SECOND} headers a second on one core: {ours:.0f}, "
        + ("met" if ours >= GOAL_PER_SECOND else "missed"),
        f"{n} instances of {header_bytes} bytes of header and 64 x 64 pixels, {N_SLICES} a series, in the page cache",
        "seconds: the work, neither start-up nor imports; whole_process_s: with them",
        f"session_s: starting Spark; then comes the first work of that session, on {MASTER}",
    ]
    report("bench_intake", rows, options, notes)


def _measure(case: str, systems: Mapping[str, str], peer: str, folder: Path, repeats: int) -> list[Row]:
    print(case, flush=True)
    commands = {name: partial(_command, reader, folder) for name, reader in systems.items()}
    runs = interleave(commands, repeats)
    accounts = {
        name: [read_account(_account(reader, folder, number)) for number in range(repeats)]
        for name, reader in systems.items()
    }
    figures = {name: _figures(case, runs[name], told) for name, told in accounts.items()}
    work = {
        name: [
            Measurement(seconds=item.work_seconds, peak_rss_mb=run.peak_rss_mb)
            for run, item in zip(runs[name], told, strict=True)
        ]
        for name, told in accounts.items()
    }
    return summarise(case, work, peer=peer, figures=figures)


def _command(reader: str, folder: Path, number: int) -> Command:
    arguments = ("benchmarks.peer_intake", reader, str(folder), str(_account(reader, folder, number)))
    return Command(argv=(sys.executable, "-W", "ignore", "-m", *arguments))


def _account(reader: str, folder: Path, number: int) -> Path:
    return folder.parent / "accounts" / f"{reader}_{number}.json"


def _figures(case: str, runs: Sequence[Measurement], told: Sequence[Account]) -> dict[str, float | int | str]:
    """Medians over the rounds of what the processes say of themselves.

    Raises:
        RuntimeError: A system read fewer instances than there are.
    """
    n = int(case.split()[0])
    wrong = [item for item in told if item.refusal or item.parts["instances"] != n]
    if wrong:
        raise RuntimeError(f"{case}: {wrong[0].refusal or wrong[0].parts}")
    parts = {
        name: statistics.median(item.parts[name] for item in told) for name in told[0].parts if name.endswith("_s")
    }
    return {
        "per_second": statistics.median(n / item.work_seconds for item in told),
        "whole_process_s": statistics.median(run.seconds for run in runs),
        **parts,
    }


if __name__ == "__main__":
    main()
