"""Results behind a URL: finished files are put by one request each, so that stores without rename do."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.stores.delta import delta_options
from imaging_pipeline.stores.ranged import RangedFile
from imaging_pipeline.stores.s3 import list_pages
from imaging_pipeline.stores.settings import StorageSettings
from imaging_pipeline.stores.store import Entry, Table, cannot_write, digest_of, unreachable, write_parts
from imaging_pipeline.stores.temporary import is_orphan, scratch_prefix, temporary_name
from imaging_pipeline.stores.urls import ATOMIC, filesystem, protocol_of, store_errors

_PIECE_BYTES = 1 << 26
_LINES_AT_ONCE = 100
_MODIFIED = ("LastModified", "last_modified", "mtime", "updated", "created")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteStore:
    """A prefix of an object store, or a folder of HDFS; see `Store`.

    A file is finished on this machine first and then put in one piece: by one request, or by a multipart upload that
    shows nothing before it is complete. Where a file appears as soon as it is opened, as in HDFS, it is written under
    another name and renamed.

    Attributes:
        url: Without a slash at its end.
        storage: Where its store is.
    """

    url: str
    storage: StorageSettings

    def __str__(self) -> str:
        return self.url

    @property
    def poll_seconds(self) -> float:
        """See `Store`: every look is a request for each thousand files."""
        return 2.0

    @property
    def at_once(self) -> int:
        """See `Store`: a request waits most of its time."""
        return 16

    def prepare(self, folders: Iterable[str]) -> None:
        """See `Store`."""
        probe = f"{next(iter(folders))}/.probe"
        self._put(probe, lambda to, url: to.pipe_file(url, b""))
        with suppress(OSError):  # some may write and not remove
            self.remove(probe)

    def publish(self, path: str, content: bytes | Iterable[bytes]) -> str:
        """See `Store`."""
        if isinstance(content, bytes):
            try:
                self._put(path, lambda to, url: to.pipe_file(url, content))
            except OSError as error:
                raise self._cannot_write(path, error) from None
            return digest_of([content])
        try:
            with tempfile.NamedTemporaryFile(prefix=scratch_prefix()) as stream:
                digest, _ = write_parts(stream, content)
                stream.flush()
                self._put(path, lambda to, url: to.put_file(stream.name, url))
        except OSError as error:
            raise self._cannot_write(path, error) from None
        return digest

    def create(self, path: str, content: bytes) -> bool:
        """See `Store`; who may read it is the store's own business."""
        conditional = self._protocol != "s3" or self.storage.s3.conditional_put
        try:
            if not conditional and self.exists(path):
                return False
            with store_errors(self._protocol):
                mode = "create" if conditional else "overwrite"
                if self._protocol not in ATOMIC:
                    self._filesystem.makedirs(self._url(path).rpartition("/")[0], exist_ok=True)
                self._filesystem.pipe_file(self._url(path), content, mode=mode)
        except OSError as error:
            with suppress(OSError):
                if self.exists(path):
                    return False
            remedy = ", or set storage.s3.conditional_put=false for a store that knows no If-None-Match"
            raise self._cannot_write(path, error, remedy * (self._protocol == "s3" and conditional)) from None
        return True

    def scratch(self, path: str) -> Path:
        """See `Store`: in the folder for temporary files, which has to have room for it."""
        return Path(tempfile.gettempdir()) / f"{scratch_prefix()}{os.path.basename(path)}"

    def publish_scratch(self, path: str) -> str:
        """See `Store`."""
        written = self.scratch(path)
        try:
            with written.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            self._put(path, lambda to, url: to.put_file(str(written), url))
        except OSError as error:
            raise self._cannot_write(path, error) from None
        finally:
            written.unlink(missing_ok=True)
        return digest

    def append(self, path: str, line: Callable[[bytes], bytes]) -> None:
        """See `Store`: an object for each line, made only if there is none of its number: nothing is ever rewritten."""
        for _ in range(_LINES_AT_ONCE):
            try:
                last = max((entry.path for entry in self.list(path)), default="")
                number = int(last.rpartition("/")[2].partition(".")[0] or 0)
                content = self.read(last) if last else b""
            except (OSError, ValueError) as error:
                raise unreachable(self, error if isinstance(error, OSError) else OSError(0, str(error))) from None
            if self.create(f"{path}/{number + 1:010}.json", line(content)):
                return
        raise self._cannot_write(path, OSError(0, f"{_LINES_AT_ONCE} others were quicker"))

    def lines(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        yield from (self.read(entry.path) for entry in list(self.list(path)))

    def sweep(self) -> int:
        """See `Store`: only where files are renamed are there any unfinished ones."""
        if self._protocol in ATOMIC:
            return 0
        orphans = [entry.path for entry in self.list() if is_orphan(os.path.basename(entry.path), entry.modified_at)]
        for path in orphans:
            with suppress(OSError):
                self.remove(path)
        return len(orphans)

    def set_aside(self, folder: str) -> None:
        """See `Store`: removed, for objects cannot be renamed."""
        try:
            for entry in list(self.list(folder)):
                self.remove(entry.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._cannot_write(folder, error) from None

    @contextmanager
    def on_disk(self, folder: str) -> Iterator[Path]:
        """See `Store`: a temporary one, whose files are put when the block ends."""
        with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as scratch:
            try:
                yield Path(scratch)
            finally:
                for file in sorted(Path(scratch).iterdir()):
                    self.publish(f"{folder}/{file.name}", file.read_bytes())

    def read(self, path: str) -> bytes:
        """See `Store`."""
        return b"".join(self._pieces(path))

    @contextmanager
    def fetched(self, path: str) -> Iterator[Path]:
        """See `Store`: a temporary one."""
        with tempfile.NamedTemporaryFile(prefix=scratch_prefix()) as stream:
            write_parts(stream, self._pieces(path))
            stream.flush()
            yield Path(stream.name)

    def digest(self, path: str) -> str | None:
        """See `Store`."""
        try:
            return digest_of(self._pieces(path))
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """See `Store`."""
        with store_errors(self._protocol):
            return bool(self._filesystem.exists(self._url(path)))

    def list(self, folder: str = "", only: Container[str] | None = None) -> Iterator[Entry]:
        """See `Store`: one request for each thousand files, none for a single one."""
        to, url = self._filesystem, self._url(folder)
        root = to._strip_protocol(self.url)
        found = []
        with store_errors(self._protocol):
            pages = list_pages(to, url) if self._protocol == "s3" else sorted(to.find(url, detail=True).items())
            for name, info in pages:
                path = name.removeprefix(root).removeprefix("/")
                if _is_file(name, info) and (only is None or path in only):
                    found.append(_entry(path, info))
        yield from found

    def remove(self, path: str) -> None:
        """See `Store`."""
        with store_errors(self._protocol):
            self._filesystem.rm_file(self._url(path))

    def table(self, folder: str) -> Table:
        """See `Store`."""
        with store_errors(self._protocol):
            options = delta_options(self._protocol, self.storage, self._filesystem)
        return Table(uri=self._url(folder), options=options)

    @property
    def _protocol(self) -> str:
        return protocol_of(self.url)

    @property
    def _filesystem(self) -> Any:
        return filesystem(self.url, self.storage)

    def _url(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    def _pieces(self, path: str) -> Iterator[bytes]:
        stream = RangedFile(self._url(path), self.storage)
        if (content := stream.whole(_PIECE_BYTES)) is not None:
            yield content
            return
        while piece := stream.read(_PIECE_BYTES):
            yield piece

    def _put(self, path: str, put: Callable[[Any, str], object]) -> None:
        """Put a finished file, or rename it where that is what makes it appear at once."""
        with store_errors(self._protocol):
            if self._protocol in ATOMIC:
                put(self._filesystem, self._url(path))
                return
            folder, _, name = self._url(path).rpartition("/")
            temporary = f"{folder}/{temporary_name(name)}"
            self._filesystem.makedirs(folder, exist_ok=True)
            put(self._filesystem, temporary)
            with suppress(FileNotFoundError):  # a rename does not replace; for this moment there is no such file
                self._filesystem.rm_file(self._url(path))
            self._filesystem.mv(temporary, self._url(path))

    def _cannot_write(self, path: str, error: OSError, remedy: str = "") -> PipelineError:
        return cannot_write(os.path.basename(path), error, f"see that {self.url} can be written to{remedy}")


def _is_file(name: str, info: dict[str, Any]) -> bool:
    return info["type"] == "file" and not name.endswith("/")  # an empty object stands for a folder


def _entry(path: str, info: dict[str, Any]) -> Entry:
    modified = next((info[key] for key in _MODIFIED if key in info), 0)
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified or 0)
    stamp = info.get("ETag") or info.get("etag") or f"{seconds} {info['size']}"
    return Entry(path=path, size_bytes=int(info["size"] or 0), modified_at=seconds, stamp=str(stamp))
