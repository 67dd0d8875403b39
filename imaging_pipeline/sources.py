"""Where bytes of an input come from: a local path, a member of an archive, anything that fsspec opens, or memory."""

import io
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote_to_bytes

import fsspec
from fsspec.implementations.tar import TarFileSystem
from fsspec.implementations.zip import ZipFileSystem

Source = Callable[[str], BinaryIO]
"""Opens an input for reading in binary; raises OSError where it is gone or damaged."""

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MEMBER = "!/"
"""Stands between the path of an archive and the name of a member, as in Spark's own archive reader."""
MAX_MEMBER_BYTES = 1 << 32
"""A member that claims to unpack to more is refused; the largest multi-frame instances are below 4 GiB."""
MAX_ARCHIVE_BYTES = 1 << 38
"""A compressed tar archive that unpacks to more (256 GiB) is refused."""

_OPEN_ARCHIVES = 4
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


def members(path: str) -> Iterator[tuple[str, int]]:
    """Path and size in bytes of every file in an archive, in a stable order.

    Raises:
        OSError: It is no archive, or a damaged one.
    """
    archive = _archive(path)
    for name, entry in sorted(archive.find("", detail=True).items()):
        yield f"{path}{MEMBER}{name}", int(entry["size"])


def open_source(path: str) -> BinaryIO:
    """Open an input for reading in binary.

    Args:
        path: A local path, what `portable` made of one, `archive!/member`, or a URL of fsspec.

    Raises:
        OSError: It is gone, damaged, or may not be read.
    """
    archive, member, name = path.partition(MEMBER)
    if member and is_archive(archive):
        return _open_member(archive, name)
    if path.startswith(_RAW_BYTES):
        return open(os.fsdecode(unquote_to_bytes(path.removeprefix(_RAW_BYTES))), "rb")
    if "://" in path:
        return cast(BinaryIO, fsspec.open(path, "rb").open())
    return open(path, "rb")


def in_memory(stream: BinaryIO, path: str) -> BinaryIO:
    """A stream that can be read at any place: members of archives are unpacked, the others left as they are.

    Raises:
        OSError: The member is damaged, or larger than `MAX_MEMBER_BYTES`.
    """
    if MEMBER not in path or isinstance(stream, io.BytesIO):
        return stream
    with stream:
        try:
            content = stream.read(MAX_MEMBER_BYTES)
        except ARCHIVE_DAMAGE as error:
            raise OSError(0, f"the archive is damaged: {error}") from None
    if len(content) == MAX_MEMBER_BYTES:
        raise OSError(0, f"more than {MAX_MEMBER_BYTES} bytes unpacked")
    return io.BytesIO(content)


class Contents:
    """Bytes that are in memory already, by path; what is not there is opened where it lies."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._held: dict[str, bytes] = {}

    def put(self, path: str, content: bytes) -> None:
        """Hold the content of an input."""
        self._held[path] = content

    def clear(self) -> None:
        """Let everything go."""
        self._held.clear()

    def __call__(self, path: str) -> BinaryIO:
        """Open an input, see `open_source`."""
        content = self._held.get(path)
        return open_source(path) if content is None else io.BytesIO(content)


def _open_member(path: str, name: str) -> BinaryIO:
    try:
        return cast(BinaryIO, _archive(path).open(name, "rb"))
    except ARCHIVE_DAMAGE as error:
        raise OSError(0, f"the archive is damaged: {error}") from None


def _archive(path: str) -> Any:
    status = os.stat(path) if os.path.exists(path) else None
    try:
        return _open_archive(path, 0 if status is None else status.st_mtime_ns)
    except ARCHIVE_DAMAGE as error:
        raise OSError(0, f"no archive, or a damaged one: {error}") from None


@lru_cache(maxsize=_OPEN_ARCHIVES)
def _open_archive(path: str, _changed_ns: int) -> Any:
    stream = open_source(path)
    if path.lower().endswith(".zip"):
        return ZipFileSystem(fo=stream, skip_instance_cache=True)
    if not path.lower().endswith(".tar"):
        stream = _unpacked(stream, path)
    return TarFileSystem(fo=stream, skip_instance_cache=True)


def _unpacked(stream: BinaryIO, path: str) -> BinaryIO:
    """A compressed tar as a plain one in a temporary file: only that can be read at any place."""
    compression = {"z2": "bz2", "xz": "xz"}.get(path[-2:].lower(), "gzip")
    unpacked = tempfile.NamedTemporaryFile(prefix="imaging-pipeline-", suffix=".tar")  # noqa: SIM115 the archive keeps it
    opener = fsspec.compression.compr[compression]
    with opener(stream, mode="rb") as compressed:
        while chunk := compressed.read(1 << 20):
            unpacked.write(chunk)
            if unpacked.tell() > MAX_ARCHIVE_BYTES:
                raise OSError(0, f"more than {MAX_ARCHIVE_BYTES} bytes unpacked")
    unpacked.seek(0)
    return cast(BinaryIO, unpacked)
