"""One way to read the headers of a folder, in a process of its own.

    python -m benchmarks.peer_intake READER FOLDER ACCOUNT

read_header, pydicom and pydicom_tags read a list of files one after the other; local and spark are the runners:
listing, headers and grouping, as `python -m imaging_pipeline.run` does them before the first series is decoded.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peer_account import account
from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.copies import mark_copies
from imaging_pipeline.intake.finder import Finder, choose, gather
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.intake.rules import SelectionRules
from imaging_pipeline.settings import Settings, resolve
from imaging_pipeline.sources import open_source

if TYPE_CHECKING:  # whoever reads without Spark starts without it
    from pyspark.sql import SparkSession

    from imaging_pipeline.runner import Runner
    from imaging_pipeline.spark import SparkRunner

Counts = dict[str, float]

MASTER = "local[2]"


def main() -> None:
    """Read FOLDER once and leave the figures in ACCOUNT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("account", type=Path, metavar="ACCOUNT")
    arguments = parser.parse_args()
    READERS[arguments.reader](arguments.folder, arguments.account)


def read_header(folder: Path, where: Path) -> None:
    """Our reader in one process."""
    from imaging_pipeline.intake.headers import read_header as read
    from imaging_pipeline.intake.listing import list_files

    files = list(list_files(folder))
    figures, n_planes = account(lambda: sum(row.plane is not None for file in files for row in read(file)))
    replace(figures, parts={"instances": n_planes or 0}).write(where)


def pydicom(folder: Path, where: Path) -> None:
    """pydicom up to the pixels; it decodes values when they are asked for, which nobody does here."""
    _with_pydicom(folder, where, None)


def pydicom_tags(folder: Path, where: Path) -> None:
    """pydicom, told which elements are wanted: those that our reader takes."""
    from imaging_pipeline.intake.headers import _WANTED

    _with_pydicom(folder, where, sorted(_WANTED))


def _with_pydicom(folder: Path, where: Path, tags: list[int] | None) -> None:
    from pydicom import dcmread

    paths = sorted(os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)

    def work() -> int:
        return sum("PixelSpacing" in dcmread(path, stop_before_pixels=True, specific_tags=tags) for path in paths)

    figures, n_read = account(work)
    replace(figures, parts={"instances": n_read or 0}).write(where)


def local(folder: Path, where: Path) -> None:
    """LocalRunner: this process alone."""
    from imaging_pipeline.runner import LocalRunner

    figures, parts = account(lambda: _intake(LocalRunner(), folder, resolve()))
    replace(figures, parts=parts or {}).write(where)


def spark(folder: Path, where: Path) -> None:
    """SparkRunner: the first work of a fresh session, its start apart; then once more, and its listing alone."""
    from imaging_pipeline.spark import SparkRunner, open_session

    settings = resolve(options={"spark.master": MASTER})
    start = time.perf_counter()
    with open_session(settings, where.with_suffix(".log")) as session:
        session_s = time.perf_counter() - start
        runner = SparkRunner(session, settings)
        figures, parts = account(lambda: _intake(runner, folder, settings))
        again = {f"again_{name}": seconds for name, seconds in _again(runner, session, folder, settings).items()}
        replace(figures, parts={**(parts or {}), "session_s": session_s, **again}).write(where)


def _again(runner: "SparkRunner", session: "SparkSession", folder: Path, settings: Settings) -> Counts:
    """Intake by workers that are up already, and what of it the listing takes."""
    start = time.perf_counter()
    parts = _intake(runner, folder, settings)
    intake_s = time.perf_counter() - start
    files = session.read.format("binaryFile").option("recursiveFileLookup", True).load(f"file:{folder}")
    start = time.perf_counter()
    files.agg({"length": "sum"}).collect()
    return {**parts, "intake_s": intake_s, "jvm_listing_s": time.perf_counter() - start}


def _intake(runner: "Runner", folder: Path, settings: Settings) -> Counts:
    """All of intake but its cache: a folder's name to the packed tasks of its series."""
    start = time.perf_counter()
    files = runner.list_files(folder, None).sort_by("path")
    listed_s = time.perf_counter() - start
    packets = Pile.of(runner.read_headers(files, (), open_source))
    read_s = time.perf_counter() - start - listed_s
    finder = Finder(Keys(b"benchmark" * 4), settings, SelectionRules(), "none")
    tasks, _ = choose(gather(runner.find_series(mark_copies(packets.instances()), finder)), finder.rules)
    volumes = [item.unpack() for item in tasks]
    return {
        "instances": sum(task.identity.n_slices for task in volumes),
        "series": len(volumes),
        "listing_s": listed_s,
        "reading_s": read_s,
        "grouping_s": time.perf_counter() - start - listed_s - read_s,
    }


READERS: dict[str, Callable[[Path, Path], None]] = {
    "read_header": read_header,
    "pydicom": pydicom,
    "pydicom_tags": pydicom_tags,
    "local": local,
    "spark": spark,
}

if __name__ == "__main__":
    main()
