"""Headers are read once: the next run opens only files that are new or have changed, and gets the same rows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_pipeline import header_cache
from imaging_pipeline.errors import Code
from imaging_pipeline.header_cache import HeaderCache
from imaging_pipeline.intake.headers import read_file
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.intake.packets import file_refs, packets_of, planes_in
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.records import FileRef, HeaderRow, SkippedFile
from imaging_pipeline.rows import to_table
from imaging_pipeline.runner import LocalRunner
from imaging_pipeline.sources import open_source
from imaging_pipeline.stores import LocalStore
from sample_data.phantom import CtSpec, write_ct, write_enhanced_ct
from tests.conftest import Finished

SECRET = b"0" * 32
SPEC = CtSpec(shape=(16, 12, 5), spacing_mm=(2.0, 2.0, 4.0))


@pytest.fixture(autouse=True)
def results(tmp_path: Path) -> None:
    """RESULTS as a run finds them: the folder is there."""
    (tmp_path / "out").mkdir()


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A series, an instance of several frames, an archive and a letter."""
    folder = tmp_path / "studies"
    write_ct(SPEC, folder / "one")
    write_enhanced_ct(SPEC, folder / "frames.dcm")
    write_ct(replace(SPEC, seed=7), tmp_path / "packed")
    shutil.make_archive(str(folder / "two"), "zip", tmp_path / "packed")
    (folder / "letter.txt").write_text("Dear colleague")
    return folder


def rows_of(folder: Path, cache: HeaderCache | None) -> list[HeaderRow]:
    """As a pass over studies gets them."""
    runner = LocalRunner()
    files = runner.list_files(folder, None)
    known, changed = (Pile.of([]), files) if cache is None else cache.split(files)
    fresh = Pile.of(runner.read_headers(changed, (), open_source), beside=known)
    if cache is not None:
        cache.keep(known, fresh)
    return sorted(
        opened_rows(known.plus(fresh)),
        key=lambda row: (row.path, row.plane.frame or 0 if row.plane else 0),
    )


def opened_rows(packets: Pile) -> list[HeaderRow]:
    contents = (content for table in packets.instances().tables() for content in table["content"])
    planes = (plane for content in contents for plane in planes_in(content.as_py()))
    others = packets.others().skipped()
    return [*(HeaderRow(plane=plane) for plane in planes), *(HeaderRow(skipped=item) for item in others)]


def table_of(files: list[FileRef]) -> pa.Table:
    return to_table(FileRef, files)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose headers are read."""
    names: list[str] = []

    def noting(file: FileRef, *arguments: object) -> object:
        names.append(Path(file.path).name)
        return read_file(file, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("imaging_pipeline.intake.objects.read_file", noting)
    return names


def test_a_second_run_opens_no_file_and_gets_the_same_rows(studies: Path, tmp_path: Path, opened: list[str]) -> None:
    cache = HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ())
    first, n_files = rows_of(studies, cache), len(opened)
    assert n_files == 8
    opened.clear()
    assert rows_of(studies, HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ())) == first
    assert opened == []
    assert rows_of(studies, None) == first


def test_only_what_is_new_or_changed_is_opened_and_what_is_gone_is_forgotten(
    studies: Path, tmp_path: Path, opened: list[str]
) -> None:
    cache = HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ())
    rows_of(studies, cache)
    slices = sorted((studies / "one").iterdir())
    changed, touched, gone = slices[:3]
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    os.utime(touched, ns=(touched.stat().st_atime_ns, touched.stat().st_mtime_ns + 5_000_000))
    gone.unlink()
    (studies / "new.txt").write_text("no DICOM either")
    opened.clear()
    rows = rows_of(studies, cache)
    assert sorted(opened) == sorted([changed.name, touched.name, "new.txt"])
    assert rows == rows_of(studies, None)


def test_neither_patients_nor_paths_can_be_read_from_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "MARKEDPATH"
    write_ct(replace(SPEC, patient_id="MARKEDID"), folder)
    cache = HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ())
    rows_of(tmp_path / "studies", cache)
    content = b"".join(path.read_bytes() for path in (tmp_path / "out" / header_cache.FOLDER).iterdir())
    assert content
    assert b"MARKED" not in content
    with_another_secret = HeaderCache(LocalStore(root=tmp_path / "out"), b"1" * 32, ())
    known, _ = with_another_secret.split(table_of(list(list_files(tmp_path / "studies"))))
    assert len(known) == 0


def test_rows_with_other_attributes_are_read_again(studies: Path, tmp_path: Path) -> None:
    rows_of(studies, HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ()))
    known, pending = HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ("Manufacturer",)).split(
        table_of(list(list_files(studies)))
    )
    assert (len(known), pending.num_rows) == (0, 8)


def test_a_damaged_cache_costs_time_and_nothing_else(studies: Path, tmp_path: Path) -> None:
    cache = HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ())
    first = rows_of(studies, cache)
    for damage in (b"", b"nonsense", next((tmp_path / "out" / header_cache.FOLDER).iterdir()).read_bytes()[:-9]):
        for path in (tmp_path / "out" / header_cache.FOLDER).iterdir():
            path.write_bytes(damage)
        assert rows_of(studies, HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ())) == first


def test_a_dry_run_uses_the_cache_and_leaves_it_alone(studies: Path, tmp_path: Path, opened: list[str]) -> None:
    rows_of(studies, HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, (), writes=False))
    assert not list((tmp_path / "out").iterdir())
    rows_of(studies, HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ()))
    opened.clear()
    rows_of(studies, HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, (), writes=False))
    assert opened == []


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    cache = HeaderCache(LocalStore(root=tmp_path / "out"), SECRET, ())
    files = [FileRef(path=name, size_bytes=1, modified_at=1.0) for name in ("a", "b")]
    codes = {"a": Code.UNREADABLE_FILE, "b": Code.NOT_DICOM}
    rows = [HeaderRow(skipped=SkippedFile(path=name, code=code, message="")) for name, code in codes.items()]
    nothing, _ = cache.split(table_of(files))
    read = packets_of((file, [row]) for file, row in zip(files, rows, strict=True))
    cache.keep(nothing, Pile.of([read], beside=nothing))
    known, pending = cache.split(table_of(files))
    assert opened_rows(known) == rows[1:]
    assert list(file_refs(pending)) == files[:1]


@given(
    nights=st.lists(
        st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 3), max_size=8), min_size=1, max_size=25
    )
)
def test_whatever_comes_goes_and_changes_over_many_nights_rows_are_those_of_the_day(
    nights: list[dict[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("nights")
    folder = out / header_cache.FOLDER
    read: Callable[[FileRef], HeaderRow] = lambda file: HeaderRow(  # noqa: E731
        skipped=SkippedFile(path=file.path, code=Code.NOT_DICOM, message=f"{file.size_bytes}")
    )
    for night in nights:
        files = [FileRef(path=name, size_bytes=size, modified_at=float(size)) for name, size in night.items()]
        cache = HeaderCache(LocalStore(root=out), SECRET, ())
        known, pending = cache.split(table_of(files))
        fresh = Pile.of([packets_of((file, [read(file)]) for file in file_refs(pending))], beside=known)
        cache.keep(known, fresh)
        rows = sorted(opened_rows(known.plus(fresh)), key=lambda row: row.path)
        assert rows == sorted(map(read, files), key=lambda row: row.path)
        n_segments = len(list(folder.glob("*"))) if folder.exists() else 0
        assert n_segments <= header_cache._MOST_SEGMENTS


@pytest.mark.spark
@pytest.mark.slow
def test_spark_and_one_process_share_a_cache(studies: Path, tmp_path: Path, pipeline: Callable[..., Finished]) -> None:
    out = tmp_path / "out"
    first = pipeline(studies, "--out", out, "--model", "none", "--master", "local[2]")
    assert first.code == 0, first.err
    written = {path.name: path.stat().st_mtime_ns for path in (out / "cache" / "headers").iterdir()}
    assert len(written) == 1
    second = pipeline(studies, "--out", out, "--model", "none", "--no-spark")
    assert "already done" in second.out, second.err
    third = pipeline(studies, "--out", out, "--model", "none", "--master", "local[2]")
    assert third.code == 0, third.err
    assert {path.name: path.stat().st_mtime_ns for path in (out / "cache" / "headers").iterdir()} == written
