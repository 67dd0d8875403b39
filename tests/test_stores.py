"""Files of a store are whole or not there, in a folder, on a real S3 server and behind what fsspec opens."""

from __future__ import annotations

import io
import os
import pickle
import random
import sys
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
import pytest
import s3fs
from deltalake import DeltaTable
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.index import open_index
from imaging_pipeline.results.layout import open_results
from imaging_pipeline.results.receipt import follow_receipts, read_receipts, write_receipt
from imaging_pipeline.results.tables import Keys
from imaging_pipeline.run import main
from imaging_pipeline.settings import resolve
from imaging_pipeline.sources import Opener, in_memory
from imaging_pipeline.stores import Entry, LocalStore, RemoteStore, Store, open_store
from imaging_pipeline.stores.ranged import RangedFile
from imaging_pipeline.stores.settings import S3Settings, StorageSettings
from imaging_pipeline.stores.urls import canonical
from tests.s3 import BUCKET, S3
from tests.test_results import result


class FolderAsHdfs(ArrowFSWrapper):
    """HDFS's code path, on pyarrow's own file system of this machine: no name node runs here."""

    protocol = "hdfs"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(pyarrow.fs.LocalFileSystem(), **kwargs)


@pytest.fixture
def s3_here(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server, with its credentials in the environment of this process."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.fixture(params=["folder", "s3", "memory", "hdfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "s3":
        yield request.getfixturevalue("s3_here").store(tmp_path.name)
    elif request.param == "memory":
        yield RemoteStore(url=f"memory://{tmp_path.name}", storage=StorageSettings())
        MemoryFileSystem.store.clear()
    elif request.param == "hdfs":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fsspec, "get_filesystem_class", lambda protocol: FolderAsHdfs)
            yield RemoteStore(url=f"hdfs://name-node{tmp_path}", storage=StorageSettings())
    else:
        yield LocalStore(root=tmp_path)


def breaks_off() -> Iterator[bytes]:
    yield b"new and half"
    raise RuntimeError("the volume cannot be compressed")


def test_a_file_is_read_listed_and_removed_as_it_was_published(store: Store) -> None:
    store.prepare(("logs", "receipts"))
    content = random.Random(1).randbytes(200_000)
    digest = store.publish("receipts/a.json", content)
    assert store.publish("receipts/b c%41#?.json", iter([content[:7], content[7:]])) == digest
    assert store.read("receipts/b c%41#?.json") == content
    assert store.digest("receipts/a.json") == digest
    listed = list(store.list("receipts"))
    assert [entry.path for entry in listed] == ["receipts/a.json", "receipts/b c%41#?.json"]
    assert {entry.size_bytes for entry in listed} == {200_000}
    assert all(entry.modified_at > 1.7e9 for entry in listed)
    assert [entry.path for entry in store.list(only={"receipts/a.json"})] == ["receipts/a.json"]
    store.remove("receipts/a.json")
    assert not store.exists("receipts/a.json")
    assert store.digest("receipts/a.json") is None
    with pytest.raises(FileNotFoundError):
        store.read("receipts/a.json")


def test_a_newer_file_replaces_the_older_one_and_is_told_apart(store: Store) -> None:
    store.publish("receipts/a.json", b"older")
    (before,) = store.list("receipts")
    store.publish("receipts/a.json", b"newer")
    (after,) = store.list("receipts")
    assert store.read("receipts/a.json") == b"newer"
    assert before.stamp != after.stamp


def test_content_that_breaks_off_leaves_the_file_that_was_there(store: Store) -> None:
    store.publish("a/mask", b"old")
    with pytest.raises(RuntimeError):
        store.publish("a/mask", breaks_off())
    assert store.read("a/mask") == b"old"
    with pytest.raises(RuntimeError):
        store.publish("a/other", breaks_off())
    assert not store.exists("a/other")


def test_a_file_made_piece_by_piece_appears_when_it_is_finished(store: Store) -> None:
    written = store.scratch("a/probabilities.npy")
    written.write_bytes(bytes(1_000_000))
    assert not store.exists("a/probabilities.npy")
    digest = store.publish_scratch("a/probabilities.npy")
    assert store.digest("a/probabilities.npy") == digest
    assert len(store.read("a/probabilities.npy")) == 1_000_000
    assert not written.exists()


def test_a_log_gets_line_behind_line_and_each_is_made_of_the_one_before(store: Store) -> None:
    assert list(store.lines("log")) == []
    for number in range(12):
        store.append("log", lambda before: b"%d" % (int(before or 0) + 1))
        assert len(list(store.lines("log"))) == number + 1
    assert list(store.lines("log")) == [b"%d" % (number + 1) for number in range(12)]


def test_what_is_set_aside_is_gone_from_its_place(store: Store) -> None:
    store.set_aside("index")
    for name in ("index/a", "index/b/c", "other/d"):
        store.publish(name, b"x")
    store.set_aside("index")
    assert not store.exists("index/a")
    assert not store.exists("index/b/c")
    assert store.exists("other/d")


def test_a_secret_is_made_once(store: Store) -> None:
    store.prepare(("logs",))
    assert store.create("identity.key", b"first")
    assert not store.create("identity.key", b"second")
    assert store.read("identity.key") == b"first"


def test_logs_of_this_machine_end_up_in_the_store_even_if_the_run_breaks_off(store: Store) -> None:
    def interrupted() -> None:
        with store.on_disk("logs") as folder:
            (folder / "run.log").write_text("a warning")
            raise KeyboardInterrupt

    store.prepare(("logs",))
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.read("logs/run.log") == b"a warning"


def test_a_store_is_a_value_that_executors_get_with_their_tasks(store: Store) -> None:
    store.publish("a", b"content")
    sent = pickle.loads(pickle.dumps(store))
    assert sent == store
    assert sent.read("a") == b"content"


def test_rows_of_an_index_in_parquet_are_replaced(store: Store) -> None:
    index = open_index(store, "parquet")
    assert index.keys() == Keys()
    index.commit([result("k1"), result("k2")])
    index.commit([result("k1", volumes_ml={"liver": 1.5})])
    assert sorted((row["series_key"], row["volumes_ml"]) for row in index.read().to_pylist()) == [
        ("k1", [("liver", 1.5)]),
        ("k2", []),
    ]


def test_of_many_who_make_the_secret_at_once_on_s3_one_wins(s3_here: S3) -> None:
    store = s3_here.store("race")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.create("identity.key", b"%d" % number), range(8)))
    assert won.count(True) == 1
    assert store.read("identity.key") == b"%d" % won.index(True)


def test_commits_to_a_delta_index_on_s3_that_clash_lose_no_row(s3_here: S3) -> None:
    store = s3_here.store("clash")
    open_index(store, "delta").commit([result("k0")])

    def commit(number: int) -> Code | None:
        try:
            open_index(store, "delta").commit([result(f"k{number}")])
        except PipelineError as error:
            return error.code
        return None

    with ThreadPoolExecutor(6) as pool:
        codes = dict(zip(range(1, 7), pool.map(commit, range(1, 7)), strict=True))
    rows = DeltaTable(f"s3://{BUCKET}/clash/index", storage_options=s3_here.delta_options).to_pyarrow_table()
    assert None in codes.values()
    assert set(codes.values()) <= {None, Code.INDEX_BUSY}
    committed = {f"k{number}" for number, code in codes.items() if code is None}
    assert set(rows.column("series_key").to_pylist()) == {"k0", *committed}


def test_a_store_without_conditional_put_is_used_without(s3_here: S3) -> None:
    storage = StorageSettings(s3=S3Settings(endpoint_url=s3_here.endpoint, conditional_put=False))
    store = RemoteStore(url=f"s3://{BUCKET}/unconditional", storage=storage)
    assert store.create("identity.key", b"first")
    assert not store.create("identity.key", b"second")
    index = open_index(store, "delta")
    index.commit([result("k1")])
    index.commit([result("k2")])
    assert index.keys() == Keys({("k1", "m"), ("k2", "m")})


@pytest.mark.slow
def test_a_large_file_goes_in_parts_and_one_that_breaks_off_leaves_nothing(
    s3_here: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_here.store("large")
    store.scratch("whole.npy").write_bytes(random.Random(2).randbytes(120_000_000))
    digest = store.publish_scratch("whole.npy")
    assert store.digest("whole.npy") == digest
    call = s3fs.S3FileSystem._call_s3

    async def fails(self: Any, method: str, *arguments: Any, **more: Any) -> Any:
        if method == "upload_part" and more["PartNumber"] == 2:
            raise OSError("the line is dead")
        return await call(self, method, *arguments, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", fails)
    store.scratch("half.npy").write_bytes(bytes(120_000_000))
    with pytest.raises(PipelineError, match="the line is dead") as refused:
        store.publish_scratch("half.npy")
    assert refused.value.code is Code.WRITE_FAILED
    monkeypatch.undo()
    assert s3_here.names("large") == {"whole.npy"}
    assert s3_here.client.list_multipart_uploads(BUCKET) == []
    assert not list(Path(store.scratch("half.npy")).parent.glob(f"imaging-pipeline-{os.getpid()}-*.npy"))


def test_reading_a_header_fetches_the_start_of_a_file_and_reading_pixels_is_one_request(
    s3_here: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_here.store("ranges")
    content = random.Random(3).randbytes(3_000_000)
    store.publish("slice.dcm", content)
    asked: list[tuple[str, str]] = []
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *arguments: Any, **more: Any) -> Any:
        asked.append((method, more.get("Range", "")))
        return await call(self, method, *arguments, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    opener, url = Opener(store.storage), f"{store}/slice.dcm"
    with opener(url) as stream:
        assert stream.read(1 << 16) == content[: 1 << 16]
    assert asked == [("get_object", "bytes=0-65535")]
    asked.clear()
    with in_memory(opener(url), url) as stream:
        stream.seek(0, io.SEEK_END)
        assert stream.tell() == len(content)
        stream.seek(0)
        assert stream.read() == content
    assert [method for method, _ in asked] == ["get_object"]


@given(
    content=st.binary(max_size=300),
    steps=st.lists(st.tuples(st.integers(-20, 320), st.sampled_from([0, 1, 2]), st.integers(-1, 320)), max_size=12),
)
def test_a_file_behind_a_url_reads_like_a_file(content: bytes, steps: list[tuple[int, int, int]]) -> None:
    MemoryFileSystem().pipe_file("/ranged", content)
    ours, theirs = RangedFile("memory://ranged", StorageSettings()), io.BytesIO(content)
    ours._next_bytes = 16  # else one range holds it all
    buffered = io.BufferedReader(ours, 8)
    for offset, whence, size in steps:
        place = max(0, offset + {0: 0, 1: theirs.tell(), 2: len(content)}[whence])
        assert buffered.seek(place) == theirs.seek(place)
        assert buffered.read(size) == theirs.read(size)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3a://bucket/studies/", "s3://bucket/studies"),
        ("S3://bucket", "s3://bucket"),
        ("abfss://box@account.dfs.core.windows.net/a", "abfs://box@account.dfs.core.windows.net/a"),
        ("gcs://bucket/a//b", "gs://bucket/a//b"),
        ("hdfs://user@node:9000/a", "hdfs://user@node:9000/a"),
    ],
)
def test_a_store_goes_by_one_name(text: str, url: str) -> None:
    assert canonical(text) == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://host/a", "ftp:// is no store that can be opened"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/a", "a user name and password"),
    ],
)
def test_a_url_that_is_no_store_is_refused(text: str, says: str) -> None:
    with pytest.raises(PipelineError, match=says) as refused:
        open_store(text, StorageSettings())
    assert refused.value.code is Code.USAGE
    assert "key:secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["secret", "key", "token", "session_token", "password"])
def test_there_is_no_setting_for_a_secret(name: str) -> None:
    with pytest.raises(PipelineError, match=f"unknown setting storage.s3.{name}") as refused:
        resolve(assignments=[f"storage.s3.{name}=hunter2"])
    assert "hunter2" not in str(refused.value)
    with pytest.raises(PipelineError, match="holds a user name or password") as refused:
        resolve(assignments=["storage.s3.endpoint_url=https://me:hunter2@host"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "package", "remedy"),
    [
        ("s3://bucket/a", "s3fs", "pip install 'imaging-pipeline[s3]'"),
        ("abfs://box@account.dfs.core.windows.net/a", "adlfs", "pip install 'imaging-pipeline[azure]'"),
        ("gs://bucket/a", "gcsfs", "pip install 'imaging-pipeline[gcs]'"),
    ],
)
def test_a_store_whose_package_is_missing_says_what_to_install(
    url: str, package: str, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    protocol = url.partition("://")[0]
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)  # an earlier test's
    assert main([url, "--out", "s3://bucket/b", "--no-spark"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("imaging_pipeline: extra-missing: ")
    assert line.endswith(remedy)


def test_a_store_that_no_longer_lets_us_in_is_named_and_not_taken_for_an_empty_one(
    s3_here: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_here.store("locked").publish("receipts/a.json", b"{}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    elsewhere = StorageSettings(s3=S3Settings(endpoint_url=s3_here.endpoint, region="eu-central-1"))
    store = RemoteStore(url=f"s3://{BUCKET}/locked", storage=elsewhere)
    for look in (
        lambda: list(read_receipts(store)),
        lambda: open_index(store, "delta").keys(),
        lambda: open_index(store, "parquet").keys(),
    ):
        with pytest.raises(PipelineError) as refused:
            look()
        assert refused.value.code is Code.STORE_UNREACHABLE
        assert "\x1b" not in refused.value.message


class Flaky(LocalStore):
    """A folder that cannot be listed the first time."""

    asked = 0

    def list(self, folder: str = "", only: Container[str] | None = None) -> Iterator[Entry]:
        type(self).asked += 1
        if self.asked == 1:
            raise OSError(5, "the line is dead")
        return super().list(folder, only)


def test_receipts_that_cannot_be_listed_for_a_moment_are_found_the_next_time(tmp_path: Path) -> None:
    store = Flaky(root=tmp_path)
    open_results(store)
    write_receipt(store, result("k1", run_id="r"), b"key")
    pending = {"k1"}
    followed = follow_receipts(store, "r", pending, "m")
    assert next(followed) == []
    assert [found.identity.series_key for found in next(followed)] == ["k1"]
    assert pending == set()


def test_results_of_a_bucket_that_is_not_there_are_refused(s3_here: S3) -> None:
    store = RemoteStore(url="s3://no-such-bucket/results", storage=s3_here.storage)
    with pytest.raises(PipelineError, match="out-not-writable"):
        open_results(store)


def test_a_listing_of_many_pages_is_whole_and_in_order(s3_here: S3) -> None:
    client, names = s3_here.client, [f"p{number:04}/slice.dcm" for number in range(2100)]
    client.pipe({f"{BUCKET}/pages/{name}": b"x" for name in names})
    client.pipe_file(f"{BUCKET}/pages-beside/slice.dcm", b"x")
    client.call_s3("put_object", Bucket=BUCKET, Key="pages/folder/", Body=b"")  # as consoles make folders
    store = s3_here.store("pages")
    assert [entry.path for entry in store.list()] == names
    assert [entry.path for entry in store.list("p0007")] == ["p0007/slice.dcm"]
