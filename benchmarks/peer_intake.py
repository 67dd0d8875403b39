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

from benchmarks.peer_account import account
from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.series import group_series
from imaging_pipeline.records import HeaderRow
from imaging_pipeline.settings import Settings, resolve

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

    figures, parts = account(lambda: _intake(LocalRunner().headers, folder, resolve()))
    replace(figures, parts=parts or {}).write(where)


def spark(folder: Path, where: Path) -> None:
    """SparkRunner: the first work of a fresh session, its start apart."""
    from imaging_pipeline.spark import SparkRunner, open_session

    settings = resolve(options={"spark.master": MASTER})
    start = time.perf_counter()
    with open_session(settings, where.with_suffix(".log")) as session:
        session_s = time.perf_counter() - start
        runner = SparkRunner(session, settings)
        figures, parts = account(lambda: _intake(runner.headers, folder, settings))
        replace(figures, parts={**(parts or {}), "session_s": session_s}).write(where)


def _intake(headers: Callable[[Path, Path], list[HeaderRow]], folder: Path, settings: Settings) -> Counts:
    start = time.perf_counter()
    rows = headers(folder, folder / "results")
    read_s = time.perf_counter() - start
    grouped = group_series((row.plane for row in rows if row.plane is not None), Keys(b"benchmark" * 4), settings)
    return {
        "instances": sum(task.identity.n_slices for task in grouped.tasks),
        "series": len(grouped.tasks),
        "listing_and_headers_s": read_s,
        "grouping_s": time.perf_counter() - start - read_s,
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
