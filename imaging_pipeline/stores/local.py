"""Results in a folder of this machine: temporary name, fsync, rename, fsync of the folder."""

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.stores.permissions import MODES
from imaging_pipeline.stores.settings import FileMode
from imaging_pipeline.stores.store import Entry, Table, cannot_write, digest_of, write_parts
from imaging_pipeline.stores.temporary import TEMPORARY_PREFIX, is_orphan, temporary_name

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStore:
    """A folder on a local or mounted disk; see `Store`.

    Attributes:
        root: Absolute path.
        mode: Who may read what is written.
    """

    root: Path
    mode: FileMode = "umask"

    def __str__(self) -> str:
        return str(self.root)

    @property
    def poll_seconds(self) -> float:
        """See `Store`."""
        return 0.25

    @property
    def at_once(self) -> int:
        """See `Store`."""
        return 1

    def prepare(self, folders: Iterable[str]) -> None:
        """See `Store`."""
        for folder in folders:
            self._make_all(self.root / folder)
            probe = self.root / folder / ".probe"
            probe.write_bytes(b"")
            probe.unlink()

    def publish(self, path: str, content: bytes | Iterable[bytes]) -> str:
        """See `Store`."""
        file = self.root / path
        temporary = _temporary_of(file)
        try:
            self._make(file.parent)
            with self._opened(temporary) as stream:
                digest, _ = write_parts(stream, [content] if isinstance(content, bytes) else content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
            _sync_folder(file.parent)
        except OSError as error:
            n_bytes = temporary.stat().st_size if temporary.exists() else 0
            temporary.unlink(missing_ok=True)
            raise _cannot_write(file, n_bytes, error) from None
        return digest

    def create(self, path: str, content: bytes) -> bool:
        """See `Store`."""
        file = self.root / path
        temporary = _temporary_of(file.with_name(f"{threading.get_native_id()}-{file.name}"))
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(descriptor)
            os.link(temporary, file)
        except FileExistsError:
            return False
        except OSError as error:
            raise _cannot_write(file, len(content), error) from None
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def scratch(self, path: str) -> Path:
        """See `Store`."""
        file = self.root / path
        self._make(file.parent)
        return _temporary_of(file)

    def publish_scratch(self, path: str) -> str:
        """See `Store`."""
        file = self.root / path
        temporary = _temporary_of(file)
        try:
            with temporary.open("r+b") as stream:
                self._protect(stream.fileno())
                os.fsync(stream.fileno())
            digest = digest_of(_pieces(temporary))
            temporary.replace(file)
            _sync_folder(file.parent)
        except OSError as error:
            raise _cannot_write(file, 0, error) from None
        return digest

    def append(self, path: str, line: Callable[[bytes], bytes]) -> None:
        """See `Store`: one file of lines; a lock keeps others waiting, what a crash left of a line is cut off."""
        file = self.root / path
        try:
            self._make(file.parent)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            with os.fdopen(descriptor, "r+b") as stream:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._protect(descriptor)
                lines = stream.read()
                whole = lines.rpartition(b"\n")[0]
                n_bytes = len(whole) + bool(whole)
                os.ftruncate(descriptor, n_bytes)
                try:
                    stream.write(line(whole.rpartition(b"\n")[2]) + b"\n")
                    stream.flush()
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, n_bytes)
                    raise
        except OSError as error:
            raise _cannot_write(file, 0, error) from None

    def lines(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        with suppress(FileNotFoundError):
            yield from self.read(path).splitlines()

    def sweep(self) -> int:
        """See `Store`."""
        removed = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                if not name.startswith(TEMPORARY_PREFIX):
                    continue
                with suppress(OSError):
                    file = os.path.join(folder, name)
                    if is_orphan(name, os.stat(file).st_mtime):
                        os.unlink(file)
                        removed += 1
        return removed

    def set_aside(self, folder: str) -> None:
        """See `Store`: by another name, in place of what was set aside before."""
        aside = self.root / f"{folder}.damaged"
        try:
            if (self.root / folder).exists():
                shutil.rmtree(aside, ignore_errors=True)
                (self.root / folder).rename(aside)
        except OSError as error:
            raise _cannot_write(aside, 0, error) from None

    @contextmanager
    def on_disk(self, folder: str) -> Iterator[Path]:
        """See `Store`: the folder itself."""
        yield self.root / folder

    def read(self, path: str) -> bytes:
        """See `Store`."""
        return (self.root / path).read_bytes()

    @contextmanager
    def fetched(self, path: str) -> Iterator[Path]:
        """See `Store`: the file itself."""
        (self.root / path).open("rb").close()
        yield self.root / path

    def digest(self, path: str) -> str | None:
        """See `Store`."""
        try:
            return digest_of(_pieces(self.root / path))
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """See `Store`."""
        return (self.root / path).is_file()

    def list(self, folder: str = "", only: Container[str] | None = None) -> Iterator[Entry]:
        """See `Store`."""
        prefix = f"{folder}/" * bool(folder)
        with os.scandir(self.root / folder) as entries:
            found = [entry for entry in entries if only is None or prefix + entry.name in only or entry.is_dir()]
        for entry in sorted(found, key=lambda entry: entry.name):
            if entry.is_dir():
                yield from self.list(prefix + entry.name, only)
                continue
            with suppress(FileNotFoundError):  # written under another name a moment ago
                yield _entry(prefix + entry.name, entry.stat())

    def remove(self, path: str) -> None:
        """See `Store`."""
        (self.root / path).unlink()

    def table(self, folder: str) -> Table:
        """See `Store`."""
        return Table(uri=str(self.root / folder), options={})

    def _make(self, folder: Path) -> None:
        """A folder below the root; the root itself is not made anew: it may be a disk that is gone for now."""
        self._make_all(folder, below_root=True)

    def _make_all(self, folder: Path, *, below_root: bool = False) -> None:
        """A folder and those above it; only those that are new get the permissions of this store."""
        new = []
        while not folder.exists():
            if below_root and folder == self.root:
                raise OSError(errno.ENODEV, f"{self.root} is gone")
            new.append(folder)
            folder = folder.parent
        if not new and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        for one in reversed(new):
            one.mkdir(exist_ok=True)
            if self.mode != "umask":
                one.chmod(MODES[self.mode][1])

    def _opened(self, file: Path) -> IO[bytes]:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODES[self.mode][0])
        self._protect(descriptor)
        return os.fdopen(descriptor, "wb")

    def _protect(self, descriptor: int) -> None:
        if self.mode != "umask":
            os.fchmod(descriptor, MODES[self.mode][0])


def _entry(path: str, status: os.stat_result) -> Entry:
    stamp = f"{status.st_mtime_ns} {status.st_size}"
    return Entry(path=path, size_bytes=status.st_size, modified_at=status.st_mtime, stamp=stamp)


def _temporary_of(file: Path) -> Path:
    """Name of a file while it is being written."""
    return file.with_name(temporary_name(file.name))


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def _cannot_write(file: Path, n_bytes: int, error: OSError) -> PipelineError:
    return cannot_write(f"{file.name} ({n_bytes} bytes)", error, "free space or mend the permissions of --out")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
