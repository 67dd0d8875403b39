"""Thousands of tiny series through one run: memory over time, seconds a series, and whether the index is sound.

`python -m benchmarks.bench_load --series 5000` writes the series, runs the command on them in a process of its own
(without Spark and without a model: what is measured is everything around the network), reads the resident memory of
that process and of those that it starts several times a second, and verifies RESULTS afterwards.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltalake import DeltaTable

from sample_data.phantom import CtSpec, write_ct

ROOT = Path(__file__).resolve().parents[1]
SPEC = CtSpec(shape=(8, 8, 3), spacing_mm=(4.0, 4.0, 4.0))


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment of a run.

    Attributes:
        seconds: Since its start.
        rss_mb: Resident memory of the command's own process, MiB.
        workers_mb: Of the processes that it started, together.
        done: Receipts that were there.
    """

    seconds: float
    rss_mb: float
    workers_mb: float
    done: int


@dataclass(frozen=True)
class Load:
    """What a run of many series took.

    Attributes:
        samples: Moments of it, in order.
        said: Its summary.
        verified: What verify says of it.
        code: Exit codes of both.
        commits: Versions of the index.
        files: Files of the index.
    """

    samples: Sequence[Sample]
    said: str
    verified: str
    code: tuple[int, int]
    commits: int
    files: int

    def rss_at(self, share: float) -> tuple[float, float]:
        """Resident memory, MiB, of command and workers when this share of the series was done; mean of some moments."""
        last = max(sample.done for sample in self.samples)
        near = [sample for sample in self.samples if abs(sample.done - share * last) <= max(0.05 * last, 1)]
        n = max(len(near), 1)
        return sum(sample.rss_mb for sample in near) / n, sum(sample.workers_mb for sample in near) / n


def write_series(folder: Path, n: int) -> None:
    """`n` series of three slices in folders of 100."""
    for number in range(n):
        spec = dataclasses.replace(SPEC, seed=number, patient_id=f"P{number // 4}", series_number=number)
        write_ct(spec, folder / f"{number // 100:04}" / f"{number:06}")


def run(studies: Path, out: Path, *options: str) -> Load:
    """The command on all of them, watched."""
    command = [sys.executable, "-m", "imaging_pipeline.run", str(studies), "--out", str(out), "--no-spark"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    samples, began = [], time.monotonic()
    with subprocess.Popen(
        [*command, "--model", "none", "--quiet", *options], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        while process.poll() is None:
            workers = sum(map(_rss_mb, _started_by(process.pid)))
            samples.append(Sample(time.monotonic() - began, _rss_mb(process.pid), workers, _n_receipts(out)))
            time.sleep(0.1)
        said = process.stdout.read() if process.stdout is not None else ""
    verify = [sys.executable, "-m", "imaging_pipeline.verify", str(out)]
    verified = subprocess.run(verify, capture_output=True, text=True, env=environment, check=False)
    table = DeltaTable(str(out / "index"))
    return Load(
        samples=samples,
        said=said.strip(),
        verified=(verified.stdout + verified.stderr).strip(),
        code=(process.returncode, verified.returncode),
        commits=table.version() + 1,
        files=len(table.file_uris()),
    )


def _rss_mb(number: int) -> float:
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{number}/status").read_text())
    except OSError:
        return 0.0
    return int(found.group(1)) / 1024 if found else 0.0


def _started_by(number: int) -> Iterator[int]:
    """Processes that a process has started, and those that they have."""
    try:
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from _started_by(child)


def _n_receipts(out: Path) -> int:
    try:
        return len(os.listdir(out / "receipts"))
    except FileNotFoundError:
        return 0


def main() -> None:
    """Print figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=5000, help="how many")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="where series are kept for another time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        studies = arguments.keep or Path(scratch) / "in"
        if not studies.exists():
            write_series(studies, arguments.series)
        for what in ("first run", "second run"):
            load = run(studies, Path(scratch) / "out")
            print(f"{what}: {load.said}")
            working = [sample for sample in load.samples if sample.done]
            seconds = working[-1].seconds - working[0].seconds
            print(f"  {1000 * seconds / arguments.series:.1f} ms a series, exit codes {load.code}; {load.verified}")
            print(f"  index: {load.commits} versions, {load.files} files")
            shares = (0.05, 0.25, 0.5, 0.75, 1.0)
            rss = ", ".join("{:.0%} {:.0f} + {:.0f}".format(share, *load.rss_at(share)) for share in shares)
            most = max(sample.rss_mb + sample.workers_mb for sample in load.samples)
            print(f"  resident memory of command + workers, MiB, by series done: {rss}; most {most:.0f}")


if __name__ == "__main__":
    main()
