"""What is kept at hand and seldom looked at, out of memory."""

import os
import tempfile
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import IO


class Contents:
    """Values that are seldom needed, on disk: they end with the process, and nobody else can open them.

    Where the disk of temporary files takes nothing they stay in memory: that ends no run.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._file: IO[bytes] | None = None
        with suppress(OSError):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        self._end = 0
        self._in_memory: dict[int, bytes] = {}

    def add(self, values: Iterable[bytes]) -> list[int]:
        """Keep values; where each of them lies."""
        places = []
        for value in values:
            places.append(self._end)
            if value and not self._is_written(value):
                self._in_memory[self._end] = value
            self._end += len(value)
        return places

    def read(self, at: int, n_bytes: int) -> bytes:
        """A value that lies there."""
        if not n_bytes:
            return b""
        if self._file is None or at in self._in_memory:
            return self._in_memory[at]
        return os.pread(self._file.fileno(), n_bytes, at)

    def _is_written(self, value: bytes) -> bool:
        try:
            return self._file is not None and os.pwrite(self._file.fileno(), value, self._end) == len(value)
        except OSError:
            return False
