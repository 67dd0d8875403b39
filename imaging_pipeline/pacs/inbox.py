"""Instances as files of an intake folder: whole or not there, under names that say nothing."""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from imaging_pipeline.stores.arriving import ARRIVING_PREFIX

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_TAGS = ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]


class RefusalError(Exception):
    """Why an instance is not filed, in the words of PS3.4 table B.2-1.

    Attributes:
        status: Of the answer to C-STORE.
        comment: Error Comment (0000,0902).
    """

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(f"0x{status:04X}: {comment}")
        self.status = status
        self.comment = comment[:64]


@dataclass(frozen=True, slots=True)
class Inbox:
    """Files what comes in.

    Attributes:
        root: The intake folder.
        staging: A folder below it for files that are being written; no listing of this package looks into it.
        reserve_bytes: Of the disk that stay free; 0: it may fill up.
    """

    root: Path
    staging: Path
    reserve_bytes: int

    def file(self, parts: Sequence[bytes | memoryview], sop_instance_uid: str) -> Path:
        """Write an instance, sync it, and give it its name; one that is there already is replaced if it differs.

        Args:
            parts: Preamble, file meta information and data set, one behind the other.
            sop_instance_uid: What the sender calls it.

        Raises:
            RefusalError: 0xA700 where the disk is full, 0x0110 where it fails, 0xA900 or 0xC000 for what is not right.
        """
        n_bytes = sum(map(len, parts))
        temporary = self.staging / f"{threading.get_ident()}-{os.urandom(4).hex()}"
        try:
            if self.reserve_bytes and shutil.disk_usage(self.staging).free - n_bytes < self.reserve_bytes:
                raise RefusalError(0xA700, "less free disk than is kept in reserve")
            _write(temporary, parts)
            file = self.root / _name(temporary, sop_instance_uid)
            if not _is_same(file, temporary):
                _move(temporary, file)
        except OSError as error:
            if error.errno in _FULL:
                raise RefusalError(0xA700, "the disk is full") from None
            raise RefusalError(0x0110, f"the disk fails: {error.strerror}") from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return file


@contextmanager
def open_inbox(root: Path, reserve_bytes: int) -> Iterator[Inbox]:
    """An inbox of this process; what killed ones were writing is cleared away.

    Raises:
        OSError: The folder cannot be written to.
    """
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{ARRIVING_PREFIX}*"):
        _clear(left)
    staging = Path(tempfile.mkdtemp(prefix=ARRIVING_PREFIX, dir=root))
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # says to others that its owner lives
        yield Inbox(root, staging, reserve_bytes)
    finally:
        os.close(descriptor)
        shutil.rmtree(staging, ignore_errors=True)


def _clear(staging: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(staging, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(staging, ignore_errors=True)
        finally:
            os.close(descriptor)


def _write(file: Path, parts: Sequence[bytes | memoryview]) -> None:
    with file.open("wb") as stream:
        for part in parts:
            stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())


def _name(file: Path, sop_instance_uid: str) -> Path:
    """Digests of the UIDs of study, series and instance: no UID can climb out of the folder, or tell who it is."""
    try:
        header = dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
        instance, study, series = (str(header.get(tag, "") or "") for tag in _TAGS)
    except (InvalidDicomError, ValueError, KeyError, AttributeError, TypeError, EOFError, NotImplementedError):
        raise RefusalError(0xC000, "the data set cannot be parsed") from None
    if not instance:
        raise RefusalError(0xC000, "no SOP Instance UID")
    if instance != sop_instance_uid:
        raise RefusalError(0xA900, "SOP Instance UID is not that of the request")
    return Path(_digest(study, 16)) / _digest(series, 16) / f"{_digest(instance, 32)}.dcm"


def _digest(uid: str, n_digits: int) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:n_digits]


def _is_same(file: Path, other: Path) -> bool:
    """A second copy leaves the first one alone, modification time and all: nobody need read it again."""
    try:
        if file.stat().st_size != other.stat().st_size:
            return False
    except FileNotFoundError:
        return False
    with file.open("rb") as one, other.open("rb") as two:
        return hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(two, "sha256").digest()


def _move(temporary: Path, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(file)
    for folder in (file.parent, file.parent.parent, file.parent.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
