"""Inputs in an object store or HDFS: listed by few requests, their headers read by many at the same time."""

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.headers import read_file
from imaging_pipeline.records import FileRef, HeaderRow
from imaging_pipeline.sources import Opener
from imaging_pipeline.stores import RemoteStore, Store, is_url

_AT_ONCE = 16
_BATCH = 1000


def list_objects(studies: RemoteStore, *, exclude: Store) -> Iterator[FileRef]:
    """Every file of a store below a prefix, in a stable order; a request for each thousand.

    Args:
        studies: Where DICOM files are.
        exclude: RESULTS, left out where it lies below `studies`.

    Raises:
        PipelineError: `studies-not-found`.
    """
    hint = "name a prefix that holds DICOM files, and see that credentials are found that may list and read it"
    left_out, is_empty = f"{exclude}/", True
    try:
        for entry in studies.list():
            is_empty = False
            if not entry.path:
                raise PipelineError(Code.STUDIES_NOT_FOUND, f"{studies} is a single file", hint)
            path = f"{studies}/{entry.path}"
            if not path.startswith(left_out):
                yield FileRef(path=path, size_bytes=entry.size_bytes, modified_at=entry.modified_at)
        is_file = is_empty and studies.exists("")
    except OSError as error:
        raise PipelineError(Code.STUDIES_NOT_FOUND, f"{studies} cannot be listed: {error.strerror}", hint) from None
    if is_empty:
        what = f"{studies} is a single file" if is_file else f"there is nothing below {studies}"
        raise PipelineError(Code.STUDIES_NOT_FOUND, what, hint)


def read_files(
    files: Iterable[FileRef], keywords: Collection[str], opener: Opener
) -> Iterator[tuple[FileRef, list[HeaderRow]]]:
    """Files in their order, each with its rows.

    Behind URLs some are read at the same time: most of it is waiting for the store.

    Args:
        files: What `list_files` or `list_objects` found.
        keywords: See `read_header`.
        opener: Opens them.
    """
    remaining = iter(files)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="headers") as pool:
        while batch := list(islice(remaining, _BATCH)):
            in_turn = pool.map if any(is_url(file.path) for file in batch) else map
            yield from zip(batch, in_turn(lambda file: list(read_file(file, keywords, opener)), batch), strict=True)
