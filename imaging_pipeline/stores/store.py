"""What a run needs of the place where its results lie, whatever that place is."""

import errno
import hashlib
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.stores.settings import FileMode, StorageSettings

_ENDING = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), Code.OUT_FULL),
    **dict.fromkeys((errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ENODEV), Code.OUT_NOT_WRITABLE),
}
"""What a file system says when no file at all can be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of a store.

    Attributes:
        path: Relative to the store.
        size_bytes: Its length.
        modified_at: Modification time in seconds since the epoch.
        stamp: Differs whenever the content does.
    """

    path: str
    size_bytes: int
    modified_at: float
    stamp: str


class Store(Protocol):
    """A folder or a prefix: files are whole or not there, and are named relative to it.

    It is a value: what holds one can be pickled and sent to executors. `str()` of it is what a user would type.
    """

    @property
    def poll_seconds(self) -> float:
        """Pause between two looks at a folder that somebody else writes to."""

    @property
    def at_once(self) -> int:
        """Requests that are worth being made at the same time."""

    def prepare(self, folders: Iterable[str]) -> None:
        """Make sure that files can be written and removed; make folders, where there are any.

        Raises:
            OSError: They cannot.
        """

    def publish(self, path: str, content: bytes | Iterable[bytes]) -> str:
        """Write a file atomically, its content whole or in parts; its SHA-256.

        Raises:
            PipelineError: `write-failed`; a file that was there before is as it was.
        """

    def create(self, path: str, content: bytes) -> bool:
        """Write a file, readable by its owner alone where permissions are known, unless there is one; whether it was.

        Raises:
            PipelineError: `write-failed`.
        """

    def scratch(self, path: str) -> Path:
        """Where on this machine a file is made piece by piece, before `publish_scratch` gives it its name.

        Raises:
            OSError: There is no place for it.
        """

    def publish_scratch(self, path: str) -> str:
        """Publish what has been written to `scratch(path)`; its SHA-256.

        Raises:
            PipelineError: `write-failed`.
        """

    def append(self, path: str, line: Callable[[bytes], bytes]) -> None:
        """Add a line at the end of a log that several processes may write to; none is ever changed.

        Args:
            path: The log; in stores that cannot append it is a folder of one object a line.
            line: Makes the line, without its end, of the one before it (empty for the first).

        Raises:
            PipelineError: `write-failed` or `store-unreachable`.
        """

    def lines(self, path: str) -> Iterator[bytes]:
        """Lines of such a log, the oldest first.

        Raises:
            OSError: It cannot be read.
        """

    def sweep(self) -> int:
        """Remove unfinished files whose writers are gone; how many."""

    def set_aside(self, folder: str) -> None:
        """Take away a folder that is of no more use: where folders have names, by another name, `FOLDER.damaged`.

        Raises:
            PipelineError: `write-failed`.
        """

    def on_disk(self, folder: str) -> AbstractContextManager[Path]:
        """A folder of this machine whose files are in `folder` of the store when the block ends, however it ends.

        Raises:
            PipelineError: `write-failed`.
        """

    def read(self, path: str) -> bytes:
        """Content of a file.

        Raises:
            OSError: It is not there, or may not be read.
        """

    def fetched(self, path: str) -> AbstractContextManager[Path]:
        """A file as one of this machine for as long as the block lasts; nobody is to write to it.

        Raises:
            OSError: It is not there, or may not be read.
        """

    def digest(self, path: str) -> str | None:
        """SHA-256 of a file's content as it lies there now; None where it cannot be read."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file.

        Raises:
            OSError: The store does not say.
        """

    def list(self, folder: str = "", only: Container[str] | None = None) -> Iterator[Entry]:
        """Every file below a folder, however deep, in the order of their paths.

        Args:
            folder: Which; all of the store by default.
            only: Paths of the files that matter; None: all.

        Raises:
            OSError: It cannot be listed.
        """

    def remove(self, path: str) -> None:
        """Remove a file.

        Raises:
            OSError: It is not there, or may not be removed.
        """

    def table(self, folder: str) -> "Table":
        """A folder as deltalake names it; for now, as credentials may end.

        Raises:
            OSError: The store cannot be reached.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Place of a Delta table, in the words of deltalake (delta-rs).

    Attributes:
        uri: Its path or URL.
        options: Options of its object store, with the credentials of the moment.
    """

    uri: str
    options: dict[str, str] = field(repr=False)


def open_store(text: str, storage: StorageSettings, mode: FileMode = "umask") -> Store:
    """A place as a user names it: a path, or a URL.

    Args:
        text: The place.
        storage: Where stores are.
        mode: Who may read what is written to a folder; a store has rules of its own.

    Raises:
        PipelineError: `usage` for a URL that is none of ours, `extra-missing` for one whose library is not installed.
    """
    from imaging_pipeline.stores.local import LocalStore
    from imaging_pipeline.stores.remote import RemoteStore
    from imaging_pipeline.stores.urls import canonical, filesystem, is_url

    if not is_url(text):
        return LocalStore(root=Path(text).resolve(), mode=mode)
    url = canonical(text)
    try:
        filesystem(url, storage)
    except OSError as error:
        raise PipelineError(Code.USAGE, f"{url} cannot be reached: {error.strerror}", "correct the URL") from None
    return RemoteStore(url=url, storage=storage)


def unreachable(store: Store, error: OSError) -> PipelineError:
    """A store that does not answer any more, in one sentence."""
    hint = "see to the store or the network, then run again: what is done stays done"
    return PipelineError(Code.STORE_UNREACHABLE, f"{store} cannot be read: {error.strerror}", hint)


@contextmanager
def at_once(store: Store) -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` that works on as many items at the same time as a store's requests are worth; results in order."""
    if store.at_once == 1:
        yield map
        return
    with ThreadPoolExecutor(store.at_once, thread_name_prefix="store") as pool:
        yield pool.map


def write_parts(stream: IO[bytes], content: Iterable[bytes]) -> tuple[str, int]:
    """Write content that comes in parts; its SHA-256 and length."""
    digest, n_bytes = hashlib.sha256(), 0
    for part in content:
        stream.write(part)
        digest.update(part)
        n_bytes += len(part)
    return digest.hexdigest(), n_bytes


def digest_of(pieces: Iterable[bytes]) -> str:
    """SHA-256 of content that comes in pieces."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def cannot_write(what: str, error: OSError, remedy: str) -> PipelineError:
    """A store that refuses, in one sentence."""
    hint = f"{remedy}, then run again: what is done stays done"
    code = _ENDING.get(error.errno or 0, Code.WRITE_FAILED)
    return PipelineError(code, f"cannot write {what}: {error.strerror}", hint)
