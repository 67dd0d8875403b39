"""Headers travel packed and series are found part by part: what comes out is what all headers at once would give."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from imaging_pipeline.cost import Estimate
from imaging_pipeline.digests import digest
from imaging_pipeline.errors import Code
from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.copies import mark_copies
from imaging_pipeline.intake.finder import Finder, choose, gather
from imaging_pipeline.intake.found import packed_task
from imaging_pipeline.intake.headers import read_header
from imaging_pipeline.intake.packets import packets_of
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.intake.rules import SelectionRules
from imaging_pipeline.intake.series import group_series
from imaging_pipeline.job import Job
from imaging_pipeline.records import FileRef, HeaderRow, SeriesTask, SkippedFile, SliceHeader
from imaging_pipeline.results import layout
from imaging_pipeline.runner import LocalRunner, Runner
from imaging_pipeline.settings import Settings, resolve
from imaging_pipeline.sources import Opener
from imaging_pipeline.spark import SparkRunner, jobs, open_session
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.survey import Survey, Surveyor
from sample_data.phantom import CtSpec, write_ct
from tests.test_schedule import task_of

SPEC = CtSpec(shape=(16, 12, 5), spacing_mm=(2.0, 2.0, 4.0))
KEYS = Keys(b"0" * 16)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> SliceHeader:
    """The header of a real slice."""
    path = write_ct(SPEC, tmp_path_factory.mktemp("slice")).paths[0]
    (row,) = read_header(FileRef(path=str(path), size_bytes=path.stat().st_size, modified_at=1.0))
    assert row.plane is not None
    return row.plane


@st.composite
def copies(draw: st.DrawFn) -> list[tuple[str, str, int, int | None, bool]]:
    """Series, instance, position, frame and whether damaged, of files whose instances are often copies of others."""
    one = st.tuples(
        st.sampled_from(["1.1", "1.2", ""]),
        st.sampled_from(["2.1", "2.2", "2.3", "2.4", ""]),
        st.integers(0, 4),
        st.sampled_from([None, None, 0, 1]),
        st.booleans(),
    )
    return draw(st.lists(one, max_size=14))


@given(files=copies(), cut=st.integers(1, 5), n_parts=st.integers(1, 4))
def test_series_found_part_by_part_are_those_of_all_headers_at_once(
    files: list[tuple[str, str, int, int | None, bool]], cut: int, n_parts: int, plane: SliceHeader, settings: Settings
) -> None:
    planes = [
        dataclasses.replace(
            plane,
            path=f"/{number % 2}/{number:02}",
            series_uid=series,
            sop_instance_uid=instance,
            position_mm=(0.0, 0.0, 4.0 * position),
            frame=frame,
            problem_code=Code.TRUNCATED_PIXELS if is_damaged else None,
        )
        for number, (series, instance, position, frame, is_damaged) in enumerate(files)
    ]
    read = [(FileRef(path=item.path, size_bytes=9, modified_at=1.0), [HeaderRow(plane=item)]) for item in planes]
    pieces = [packets_of(read[start : start + cut]) for start in range(0, len(read), cut)]
    marked = mark_copies(Pile.of([packets_of([]), *pieces]).instances())
    finder = Finder(KEYS, settings, SelectionRules(), "none")
    found = gather(map(finder, marked.parts(n_parts)))
    at_once = group_series(planes, KEYS, settings)
    series = [item.unpack() for item in chain(*choose(found, finder.rules))]
    assert sorted(map(repr, series)) == sorted(map(repr, (*at_once.tasks, *at_once.skipped)))
    assert found.n_copies == at_once.n_duplicates


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30), n_parts=st.integers(1, 8))
def test_no_series_is_cut_however_packets_are_dealt(lengths: list[int], n_parts: int, plane: SliceHeader) -> None:
    packets = [
        packets_of(
            (FileRef(path=f"{n}/{k}", size_bytes=1, modified_at=1.0), [HeaderRow(plane=dataclasses.replace(
                plane, path=f"{n}/{k}", series_uid=f"1.{n % 7}", sop_instance_uid=f"2.{n}.{k}"))])
            for k in range(length)
        )
        for n, length in enumerate(lengths)
    ]  # fmt: skip
    parts = list(mark_copies(Pile.of(packets).instances()).parts(n_parts))
    assert len(parts) <= n_parts
    assert sum(sum(part["n_planes"].to_pylist()) for part in parts) == sum(lengths)
    runs = [[bucket for bucket, _ in groupby(part["bucket"].to_pylist())] for part in parts]
    assert len(list(chain(*runs))) == len(set(chain(*runs)))


def test_series_whose_digests_are_equal_are_told_apart_all_the_same(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imaging_pipeline.intake.packets.digest", lambda text: digest(text) % 3)
    for seed in range(4):
        write_ct(dataclasses.replace(SPEC, seed=seed), tmp_path / str(seed))
    found = surveyed(tmp_path, tmp_path / "out", settings)
    assert [task.unpack().depth for task in found.tasks] == [5] * 4
    assert (found.files, found.n_copies) == ({"dicom": 20}, 0)


def test_a_packed_task_weighs_what_the_task_weighs(settings: Settings) -> None:
    task = task_of(3, n_slices=7)
    packed = packed_task(task)
    assert packed.unpack() == task
    assert packed.identity == task.identity
    assert Estimate(outline=None)(packed) == Estimate(outline=None)(task)


class Watched(LocalRunner):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.found = 0

    def read_headers(self, files: pa.Table, keywords: Collection[str], opener: Opener) -> Iterator[pa.Table]:
        self.read.append(files.num_rows)
        return super().read_headers(files, keywords, opener)

    def find_series(self, packets: Pile, finder: Finder) -> Iterator[pa.Table]:
        self.found += 1
        return super().find_series(packets, finder)


def surveyor_of(
    studies: Path, out: Path, settings: Settings, runner: Runner | None = None, **rules: object
) -> Surveyor:
    store = LocalStore(root=out)
    layout.open_results(store)
    job = Job(out=store, run_id="r", settings=settings, bundle=None)
    chosen = SelectionRules.model_validate(rules)
    return Surveyor(studies=LocalStore(root=studies), job=job, rules=chosen, runner=runner or LocalRunner())


def surveyed(studies: Path, out: Path, settings: Settings, **rules: object) -> Survey:
    return surveyor_of(studies, out, settings, **rules).survey()


def test_a_pass_without_news_opens_neither_files_nor_the_cache(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ct(SPEC, tmp_path / "studies" / "a")
    runner = Watched()
    surveyor = surveyor_of(tmp_path / "studies", tmp_path / "out", settings, runner)
    first = surveyor.survey()
    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "read", lambda *_: pytest.fail("something of RESULTS was read"))
        assert surveyor.survey(first) is first
    assert (runner.read, runner.found) == ([5], 1)
    write_ct(dataclasses.replace(SPEC, seed=1), tmp_path / "studies" / "b")
    second = surveyor.survey(first)
    assert (len(second.tasks), runner.read, runner.found) == (2, [5, 5], 2)
    path = next((tmp_path / "studies" / "b").iterdir())
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 5_000_000))
    assert surveyor.survey(second) is not second
    assert runner.read == [5, 5, 1]


def test_what_may_change_without_a_file_changing_is_looked_at_again(tmp_path: Path) -> None:
    studies, out = tmp_path / "studies", tmp_path / "out"
    write_ct(SPEC, studies / "a")
    settled = surveyor_of(studies, out, resolve(options={"intake.settle_seconds": 3.0}))
    first = settled.survey()
    assert [item.code for item in first.skipped] == [Code.NOT_SETTLED]
    newest = max(path.stat().st_mtime for path in (studies / "a").iterdir())
    time.sleep(max(newest + 3.1 - time.time(), 0))
    assert len(settled.survey(first).tasks) == 1, "the next pass takes it"
    (studies / "cut.zip").write_bytes(b"PK\3\4 and no more")
    unreadable = settled.survey()
    assert unreadable.files == {"dicom": 5, "unreadable-file": 1}
    assert settled.survey(unreadable) is not unreadable, "it may be readable the next time"


def test_files_that_are_no_instances_are_counted_by_reason_and_named_with_it(
    tmp_path: Path, settings: Settings
) -> None:
    write_ct(SPEC, tmp_path / "a")
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("Dear colleague")
    (tmp_path / "empty.dcm").touch()
    found = surveyed(tmp_path, tmp_path / "out", settings)
    assert found.files == {"dicom": 5, "not-dicom": 3, "empty-file": 1}
    names = sorted((Path(path).name, reason.partition(":")[0]) for path, reason in found.reasons())
    assert names == [(f"{number}.txt", "not-dicom") for number in range(3)] + [("empty.dcm", "empty-file")]


SKIPPED = SkippedFile(path="", code=Code.NOT_DICOM, message="")


def test_an_archive_with_a_member_that_cannot_be_read_is_read_again_as_a_whole() -> None:
    archive = FileRef(path="a.zip", size_bytes=1, modified_at=1.0)
    rows = [
        HeaderRow(skipped=dataclasses.replace(SKIPPED, path="a.zip!/x", code=Code.NOT_DICOM)),
        HeaderRow(skipped=dataclasses.replace(SKIPPED, path="a.zip!/y", code=Code.UNREADABLE_FILE)),
    ]
    assert packets_of([(archive, rows[:1])])["files"].null_count == 0
    assert packets_of([(archive, rows)])["files"].null_count == 2


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies with two reconstructions each, a copy of one of them, a copy within another series, and a letter."""
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(6):
        spec = dataclasses.replace(SPEC, seed=seed // 2, patient_id=f"P{seed // 2}", series_number=seed % 2 + 1)
        write_ct(spec, folder / str(seed))
    write_ct(dataclasses.replace(SPEC, seed=0, patient_id="P0", series_number=1), folder / "again")
    (folder / "letter.txt").write_text("Dear colleague")
    return folder


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    settings = resolve(options={"spark.master": "local[2]", "intake.files_per_partition": 4})
    with open_session(settings, tmp_path_factory.mktemp("spark") / "spark.log") as opened:
        yield opened


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize("transport", ["path", "content"])
def test_executors_find_what_one_process_finds(
    transport: str, cohort: Path, session: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_FEW_PLANES", 0)
    monkeypatch.setattr(jobs, "PLANES_A_PART", 7)
    rules = {"take": "best", "prefer": ["newest"]}
    settings = resolve(options={"intake.transport": transport, "intake.files_per_partition": 4})
    alone = surveyed(cohort, tmp_path / "out", settings, **rules)
    spread = surveyor_of(cohort, tmp_path / "other", settings, SparkRunner(session, settings), **rules)
    (tmp_path / "other" / "identity.key").write_bytes((tmp_path / "out" / "identity.key").read_bytes())
    together = spread.survey()
    again = spread.survey()
    assert [*again.tasks, *again.skipped] == [*together.tasks, *together.skipped], "cached"
    assert again.files == together.files
    assert [item.unpack() for item in (*together.tasks, *together.skipped)] == [
        item.unpack() for item in (*alone.tasks, *alone.skipped)
    ]
    assert len(alone.tasks) == 3
    assert (together.files, together.n_copies) == (alone.files, alone.n_copies) == ({"dicom": 35, "not-dicom": 1}, 5)
    assert list(together.reasons()) == list(alone.reasons())
    assert all(isinstance(item.unpack(), SeriesTask) for item in together.tasks)


@pytest.mark.spark
@pytest.mark.slow
def test_the_jvm_begins_small_and_forgets_a_listing_that_was_handed_over(session: SparkSession, cohort: Path) -> None:
    """Spark would keep each listing for good, up to 250 MB, and begin with a 64th of the machine's memory."""
    runner = SparkRunner(session, resolve())
    assert runner.list_files(cohort, None).num_rows == 36
    jvm = session._jvm
    assert jvm is not None
    cache = jvm.org.apache.spark.sql.execution.datasources.FileStatusCache.getOrCreate(session._jsparkSession)
    assert "NoopCache" in cache.getClass().getName()
    assert jvm.java.lang.Runtime.getRuntime().totalMemory() < 200 << 20


@pytest.mark.spark
@pytest.mark.slow
def test_processes_of_series_load_before_there_is_a_header(
    session: SparkSession, tmp_path: Path, settings: Settings
) -> None:
    job = Job(out=LocalStore(root=tmp_path), run_id="0", settings=settings, bundle=None)
    SparkRunner(session, settings).prepare(job)
    end = time.monotonic() + 60
    while len(children()) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    assert len(children()) == 2, "one for each of local[2]"


def children() -> list[int]:
    """Processes for series that descend from this one."""
    parents, wanted = dict[int, int](), list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"imaging_pipeline.workers.child" in (folder / "cmdline").read_bytes():
                wanted.append(int(folder.name))
    return [number for number in wanted if os.getpid() in ancestors(number, parents)]


def ancestors(number: int, parents: dict[int, int]) -> Iterator[int]:
    while number in parents:
        number = parents[number]
        yield number
