"""Where bytes of an input come from: a local path, a member of an archive, an object of a store, or memory."""

import io
import lzma
import os
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote, unquote_to_bytes

import fsspec
from fsspec.implementations.tar import TarFileSystem
from fsspec.implementations.zip import ZipFileSystem

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.stores import RemoteStore, is_url
from imaging_pipeline.stores.ranged import FIRST_BYTES, RangedFile
from imaging_pipeline.stores.settings import ArchiveSettings, StorageSettings
from imaging_pipeline.stores.temporary import scratch_prefix

Source = Callable[[str], BinaryIO]
"""Opens an input for reading in binary; raises OSError where it is gone or damaged."""

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MEMBER = "!/"
"""Stands between the path of an archive and the name of a member, as in Spark's own archive reader."""
MAX_FETCHED_BYTES = 1 << 26
"""An object of a store that is longer (64 MiB) is read by ranges."""

_OPEN_ARCHIVES = 4
_STAMP_SECONDS = 30
_RAW_BYTES = "raw-bytes:"
ARCHIVE_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError, ValueError),
    *(RuntimeError, NotImplementedError),  # encrypted members, unknown compression
)
"""What reading a damaged, encrypted or exotic archive is known to raise."""


def portable(path: str) -> str:
    """A path that survives Arrow, JSON and a terminal: names that are no UTF-8 are percent-encoded."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _RAW_BYTES + quote(os.fsencode(path))
    return path


def is_archive(path: str) -> bool:
    """Whether a name is that of an archive whose members are inputs."""
    return path.lower().endswith(ARCHIVES)


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens inputs by path.

    Attributes:
        storage: Where stores are; None where there are only paths of this machine.
    """

    storage: StorageSettings | None = None

    @property
    def archives(self) -> ArchiveSettings:
        """How far archives are unpacked."""
        return ArchiveSettings() if self.storage is None else self.storage.archives

    def __call__(self, path: str) -> BinaryIO:
        """Open an input for reading in binary.

        Args:
            path: A local path, what `portable` made of one, the URL of an object, or one of these followed by
                `!/member` where it is an archive.

        Raises:
            OSError: It is gone, damaged, or may not be read.
            PipelineError: `archive-bomb`.
        """
        archive, member, name = path.partition(MEMBER)
        if member and is_archive(archive):
            return _open_member(archive, name, self)
        if path.startswith(_RAW_BYTES):
            return open(os.fsdecode(unquote_to_bytes(path.removeprefix(_RAW_BYTES))), "rb")
        if is_url(path):
            return io.BufferedReader(RangedFile(path, self.storage or StorageSettings()), FIRST_BYTES)
        return open(path, "rb")


open_source: Final = Opener()
"""Opens paths of this machine."""


def members(path: str, opener: Opener = open_source) -> Iterator[tuple[str, int]]:
    """Path and size in bytes of every file in an archive, in a stable order.

    Raises:
        OSError: It is no archive, or a damaged one.
        PipelineError: `archive-bomb`.
    """
    archive = _archive(path, opener)
    found = archive.find("", detail=True)
    if len(found) > (most := opener.archives.max_members):
        raise _bomb(f"{len(found)} members, storage.archives.max_members is {most}")
    for name, entry in sorted(found.items()):
        yield f"{path}{MEMBER}{name}", int(entry["size"])


def in_memory(stream: BinaryIO, path: str) -> BinaryIO:
    """A stream that can be read at any place: members of archives are unpacked, objects of stores fetched at once.

    Files of this machine are left as they are, and of long objects parts are fetched as they are needed.

    Raises:
        OSError: The member is damaged; the object is gone.
    """
    if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, RangedFile):
        content = stream.raw.whole(MAX_FETCHED_BYTES)
        return stream if content is None else io.BytesIO(content)
    if MEMBER not in path or isinstance(stream, io.BytesIO):
        return stream
    with stream:
        try:
            return io.BytesIO(stream.read())  # no more than the archive says, which was looked at when it was opened
        except ARCHIVE_DAMAGE as error:
            raise OSError(0, f"the archive is damaged: {error}") from None


class Contents:
    """Bytes that are in memory already, by path; what is not there is opened where it lies."""

    def __init__(self, opener: Source | None = None) -> None:
        """Start with nothing.

        Args:
            opener: Opens what is not in memory; None: local paths and members of archives.
        """
        self._held: dict[str, bytes] = {}
        self._open = opener or open_source

    def put(self, path: str, content: bytes) -> None:
        """Hold the content of an input."""
        self._held[path] = content

    def clear(self) -> None:
        """Let everything go."""
        self._held.clear()

    def __call__(self, path: str) -> BinaryIO:
        """Open an input, see `Opener`."""
        content = self._held.get(path)
        return self._open(path) if content is None else io.BytesIO(content)


def _open_member(path: str, name: str, opener: Opener) -> BinaryIO:
    try:
        archive = _archive(path, opener)
        _check_member(archive.info(name), opener.archives)
        return cast(BinaryIO, archive.open(name, "rb"))
    except ARCHIVE_DAMAGE as error:
        raise OSError(0, f"the archive is damaged: {error}") from None


def _check_member(info: dict[str, Any], limits: ArchiveSettings) -> None:
    """What a member says that it unpacks to binds those who unpack it: no more is read."""
    n_bytes, packed = int(info["size"]), int(info.get("compress_size") or info["size"] or 1)
    if n_bytes > limits.max_member_bytes:
        raise _bomb(f"a member of {n_bytes} bytes, storage.archives.max_member_bytes is {limits.max_member_bytes}")
    _check_ratio(n_bytes, packed, limits)


def _check_ratio(n_bytes: int, packed: int, limits: ArchiveSettings) -> None:
    if n_bytes > limits.ratio_from_bytes and n_bytes > limits.max_ratio * packed:
        most = limits.max_ratio
        raise _bomb(f"{packed} bytes that unpack to {n_bytes} or more, storage.archives.max_ratio is {most}")


def _bomb(message: str) -> PipelineError:
    hint = "unpack it elsewhere if it is what it claims to be, or raise the setting"
    return PipelineError(Code.ARCHIVE_BOMB, message, hint)


def _archive(path: str, opener: Opener) -> Any:
    if is_url(path):
        changed = _stamp(path, opener, int(time.monotonic() / _STAMP_SECONDS))
    else:
        changed = str(os.stat(path).st_mtime_ns) if os.path.exists(path) else ""
    try:
        return _open_archive(path, changed, opener)
    except ARCHIVE_DAMAGE as error:
        raise OSError(0, f"no archive, or a damaged one: {error}") from None


@lru_cache(maxsize=_OPEN_ARCHIVES)
def _stamp(path: str, opener: Opener, _moment: int) -> str:
    """Tells contents of an archive in a store apart, as it was not long ago: not every member is worth a request."""
    store = RemoteStore(url=path, storage=opener.storage or StorageSettings())
    return next((entry.stamp for entry in store.list()), "")


@lru_cache(maxsize=_OPEN_ARCHIVES)
def _open_archive(path: str, _changed: str, opener: Opener) -> Any:
    stream = opener(path)
    if path.lower().endswith(".zip"):
        return ZipFileSystem(fo=stream, skip_instance_cache=True)
    if not path.lower().endswith(".tar"):
        stream = _unpacked(stream, path, opener.archives)
    return TarFileSystem(fo=stream, skip_instance_cache=True)


def _unpacked(stream: BinaryIO, path: str, limits: ArchiveSettings) -> BinaryIO:
    """A compressed tar as a plain one in a temporary file: only that can be read at any place."""
    compression = {"z2": "bz2", "xz": "xz"}.get(path[-2:].lower(), "gzip")
    unpacked = tempfile.NamedTemporaryFile(prefix=scratch_prefix(), suffix=".tar")  # noqa: SIM115 the archive keeps it
    opener = fsspec.compression.compr[compression]
    with opener(stream, mode="rb") as compressed:
        while chunk := compressed.read(1 << 20):
            unpacked.write(chunk)
            n_bytes = unpacked.tell()
            if n_bytes > limits.max_archive_bytes:
                raise _bomb(f"more than storage.archives.max_archive_bytes, {limits.max_archive_bytes}, unpacked")
            _check_ratio(n_bytes, max(stream.tell(), 1), limits)
    unpacked.seek(0)
    return cast(BinaryIO, unpacked)
