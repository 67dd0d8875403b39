"""Files below a folder, without Spark; and the few that Spark's listing leaves out."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import FileRef
from imaging_pipeline.sources import MEMBER, is_archive, members, portable


def list_files(studies: Path, *, exclude: Path | None = None) -> Iterator[FileRef]:
    """Every regular file below `studies`, whatever its name, in a stable order.

    Args:
        studies: Folder of DICOM files, nested in any way.
        exclude: Folder left out: RESULTS, where it lies below `studies`.
    """
    for path in _walk(studies, exclude):
        yield _file_ref(path)


def list_passed_over(studies: Path, *, exclude: Path | None = None, in_archives: bool = False) -> Iterator[FileRef]:
    """Files that Spark's listing passes over: empty ones, and names that are no UTF-8 or start with `_` or `.`.

    Args:
        studies: Folder of DICOM files.
        exclude: Folder left out.
        in_archives: Members of archives are passed over by the same rule, where Spark opens the archives itself.
    """
    for path in _walk(studies, exclude):
        file = _file_ref(path)
        if file.size_bytes == 0 or file.path != path or _is_hidden(os.path.relpath(path, studies)):
            yield file
        elif in_archives and is_archive(path):
            yield from _hidden_members(file)


def _hidden_members(file: FileRef) -> Iterator[FileRef]:
    """Members of an archive that Spark passes over; the archive itself where it is damaged and says so when read."""
    try:
        inner = list(members(file.path))
    except OSError:
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

    @cache
    def is_detour(folder: str) -> bool:
        real = os.path.realpath(folder)
        return real != real_root + folder[len(root) :] and f"{real}/".startswith(f"{real_root}/")

    return is_detour


def _walk(studies: Path, exclude: Path | None) -> Iterator[str]:
    left_out = str(exclude) if exclude is not None else None
    is_detour = detours(studies)
    for folder, folders, names in os.walk(studies, followlinks=True):
        if is_detour(folder):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if os.path.join(folder, name) != left_out)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield path


def _file_ref(path: str) -> FileRef:
    status = os.stat(path)
    return FileRef(path=portable(path), size_bytes=status.st_size, modified_at=status.st_mtime)
