"""Who may read what is written to a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from imaging_pipeline.stores.settings import FileMode

MODES: dict[FileMode, tuple[int, int]] = {"umask": (0o666, 0o777), "private": (0o600, 0o700), "group": (0o640, 0o750)}
"""Permissions of files and folders."""


@contextmanager
def permissions(mode: FileMode) -> Iterator[None]:
    """For what this process and those that it starts write by other hands: Delta's files, logs of Spark."""
    if mode == "umask":
        yield
        return
    before = os.umask(0o777 & ~MODES[mode][1])
    try:
        yield
    finally:
        os.umask(before)
