"""Where bytes of an input come from: a local path, or anything that fsspec opens (archives and object stores)."""

from typing import BinaryIO, cast

import fsspec


def open_source(path: str) -> BinaryIO:
    """Open an input for reading in binary.

    Args:
        path: A local path, or a URL of fsspec such as `zip://inner/name::/studies/archive.zip`.

    Raises:
        OSError: It is gone, or may not be read.
    """
    if "://" in path:
        return cast(BinaryIO, fsspec.open(path, "rb").open())
    return open(path, "rb")
