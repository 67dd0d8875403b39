"""Seconds that a commit to the index takes after so many commits before it: merged each time, and as it is done now.

`python -m benchmarks.bench_index` commits batches of new series, as a run makes them, once by one MERGE each into a
table that nobody tidies (how the index was kept before), once by `DeltaIndex`; and batches that replace old rows, as
a second run with another model version makes them. Every figure is the mean of the commits around it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deltalake import DeltaTable, write_deltalake

from imaging_pipeline.records import SeriesIdentity, SeriesResult, Status
from imaging_pipeline.results.index import KEY, Batch, open_index, to_table
from imaging_pipeline.settings import resolve
from imaging_pipeline.stores import LocalStore

MARKS = (10, 100, 500)
AROUND = 10
LABELS = ("liver", "spleen", "left kidney", "right kidney")

Commit = Callable[[list[SeriesResult], int], None]


def results(first: int, n: int, settings: dict[str, str]) -> list[SeriesResult]:
    """Rows as long as real ones, by keys that are spread like real ones."""
    made = []
    for number in range(first, first + n):
        key = f"{(number * 0x9E3779B97F4A7C15) % 2**64:016x}"
        who = SeriesIdentity(
            series_key=key,
            stack=0,
            subject_key=key[::-1],
            session_key=key[::-1],
            study_uid=f"1.2.826.0.1.{number}",
            series_uid=f"1.2.826.0.1.{number}.1",
            series_number=number % 9,
            modality="CT",
            series_description="Thorax 5.0 B30f",
            n_slices=400,
            inputs_digest=key * 4,
        )
        path = f"sub-{key}/ses-{key}/ct/sub-{key}_ses-{key}_acq-{key}_seg-m_dseg.nii.gz"
        made.append(
            SeriesResult(
                identity=who,
                status=Status.DONE,
                model_name="m",
                fingerprint=key * 4,
                mask_path=path,
                volumes_ml=dict.fromkeys(LABELS, number / 7),
                output_digests={path: key * 4},
                voxel_settings=settings,
                seal=key * 4,
            )
        )
    return made


def merged(folder: Path) -> Commit:
    """Each batch by a MERGE, and nothing else."""
    match = " AND ".join(f"old.{column} = new.{column}" for column in KEY)

    def commit(rows: list[SeriesResult], _: int) -> None:
        place = str(folder / "index")
        if not DeltaTable.is_deltatable(place):
            write_deltalake(place, to_table(rows))
            return
        merge = DeltaTable(place).merge(to_table(rows), match, "new", "old", merge_schema=True)
        merge.when_matched_update_all().when_not_matched_insert_all().execute()

    return commit


def ours(folder: Path) -> Commit:
    """As a run does it."""
    index = open_index(LocalStore(root=folder), "delta")
    return lambda rows, number: index.commit(rows, Batch(writer="bench", number=number))


def seconds_of(commit: Commit, n: int, rows: int, settings: dict[str, str]) -> Iterator[float]:
    """Seconds of each commit of `rows` new series."""
    for number in range(n):
        batch = results(number * rows, rows, settings)
        began = time.perf_counter()
        commit(batch, number + 1)
        yield time.perf_counter() - began


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=max(MARKS) + AROUND, help="how many are made")
    parser.add_argument("--rows", type=int, default=10, help="series of each")
    arguments = parser.parse_args()
    settings = resolve().voxel_settings()
    marks = [mark for mark in MARKS if mark + AROUND <= arguments.commits]
    print(f"{arguments.rows} new series a commit; mean and longest of the {2 * AROUND} commits around it, ms")
    print("| how | " + " | ".join(f"commit {mark}" for mark in marks) + " | all, s | files at the end |")
    print("|---|" + "---|" * (len(marks) + 2))
    for name, make in (("merged, never tidied", merged), ("ours", ours)):
        with tempfile.TemporaryDirectory() as scratch:
            taken = list(seconds_of(make(Path(scratch)), arguments.commits, arguments.rows, settings))
            files = len(DeltaTable(str(Path(scratch) / "index")).file_uris())
            cells = []
            for mark in marks:
                around = [1000 * value for value in taken[mark - AROUND : mark + AROUND]]
                cells.append(f"{statistics.mean(around):.0f} ({max(around):.0f})")
            print(f"| {name} | " + " | ".join(cells) + f" | {sum(taken):.1f} | {files} |")
    with tempfile.TemporaryDirectory() as scratch:
        index = open_index(LocalStore(root=Path(scratch)), "delta")
        for n_rows in (1000, 10_000, 50_000):
            index.rebuild(lambda n=n_rows: results(0, n, settings))
            spread = [item for first in range(0, n_rows, n_rows // 10) for item in results(first, 1, settings)]
            began = time.perf_counter()
            index.commit(spread)
            print(f"10 rows that replace others in a table of {n_rows}: {1000 * (time.perf_counter() - began):.0f} ms")


if __name__ == "__main__":
    main()
