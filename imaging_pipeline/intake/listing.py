"""Files below a folder, without Spark; and the few that Spark's listing leaves out."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import FileRef
from imaging_pipeline.sources import MEMBER, is_archive, members, portable
from imaging_pipeline.stores.arriving import is_arriving

_FOLDERS_KNOWN = 1_000
"""Files of a folder mostly come behind each other."""


def list_files(studies: Path, *, exclude: Path | None = None) -> Iterator[FileRef]:
    """Every regular file below `studies`, whatever its name, in a stable order.

    Args:
        studies: Folder of DICOM files, nested in any way.
        exclude: Folder left out: RESULTS, where it lies below `studies`.
    """
    for path, status in _walk(studies, exclude):
        yield _file_ref(path, status)


def list_passed_over(studies: Path, *, exclude: Path | None = None, in_archives: bool = False) -> Iterator[FileRef]:
    """Files that Spark's listing passes over: empty ones, and names that are no UTF-8 or start with `_` or `.`.

    Args:
        studies: Folder of DICOM files.
        exclude: Folder left out.
        in_archives: Members of archives are passed over by the same rule, where Spark opens the archives itself.
    """
    above = len(f"{studies}{os.sep}")
    for path, status in _walk(studies, exclude):
        if status.st_size == 0 or portable(path) != path or _is_hidden(path[above:]):
            yield _file_ref(path, status)
        elif in_archives and is_archive(path):
            yield from _hidden_members(_file_ref(path, status))


def _hidden_members(file: FileRef) -> Iterator[FileRef]:
    """Members of an archive that Spark passes over; the archive itself where it is damaged and says so when read."""
    try:
        inner = list(members(file.path))
    except (OSError, PipelineError):
        yield file
        return
    for path, size_bytes in inner:
        if _is_hidden(path.partition(MEMBER)[2]):
            yield FileRef(path=path, size_bytes=size_bytes, modified_at=file.modified_at)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def check_studies(studies: Path) -> None:
    """Refuse a STUDIES that is no readable folder.

    Raises:
        PipelineError: `studies-not-found`.
    """
    hint = "name a folder that holds DICOM files"
    if not studies.exists():
        raise PipelineError(Code.STUDIES_NOT_FOUND, f"{studies} does not exist", hint)
    if not studies.is_dir():
        raise PipelineError(Code.STUDIES_NOT_FOUND, f"{studies} is a file", hint)
    if not os.access(studies, os.R_OK | os.X_OK):
        raise PipelineError(Code.STUDIES_NOT_FOUND, f"{studies} cannot be read by this user", "grant read access")


def detours(studies: Path) -> Callable[[str], bool]:
    """Tells folders that a link leads to and that are listed at their own place below STUDIES too, loops among them."""
    root, real_root = str(studies), os.path.realpath(studies)

    @lru_cache(_FOLDERS_KNOWN)
    def is_detour(folder: str) -> bool:
        real = os.path.realpath(folder)
        return real != real_root + folder[len(root) :] and f"{real}/".startswith(f"{real_root}/")

    return is_detour


def _walk(studies: Path, exclude: Path | None) -> Iterator[tuple[str, os.stat_result]]:
    """Paths of regular files, links to such included, and what the file system says of them."""
    left_out = str(exclude) if exclude is not None else None
    is_detour = detours(studies)
    for folder, folders, names in os.walk(studies, followlinks=True):
        if is_detour(folder):
            folders.clear()
            continue
        known = (name for name in folders if not is_arriving(name))
        folders[:] = sorted(name for name in known if os.path.join(folder, name) != left_out)
        for name in sorted(names):
            path = os.path.join(folder, name)
            status = _status(path)
            if status is not None and stat.S_ISREG(status.st_mode):
                yield path, status


def _status(path: str) -> os.stat_result | None:
    """None for a link to nowhere, and for a file that is gone by now."""
    with suppress(OSError):
        return os.stat(path)
    return None


def _file_ref(path: str, status: os.stat_result) -> FileRef:
    modified_ms = status.st_mtime_ns // 1_000_000  # no finer than the JVM lists it: both must name one time
    return FileRef(path=portable(path), size_bytes=status.st_size, modified_at=modified_ms / 1000)
