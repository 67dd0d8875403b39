"""What is kept at hand and seldom looked at, out of memory."""

import os
import tempfile
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import IO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_TAG_BYTES, _NONCE_BYTES = 16, 12


class Contents:
    """Values that are seldom needed, on disk: they end with the process, and nobody else can read them.

    The file has no name, and what it holds is encrypted (AES-GCM, NIST SP 800-38D) under a key that is nowhere but in
    this object: headers name patients, and a disk keeps what was deleted. Where the disk of temporary files takes
    nothing values stay in memory: that ends no run.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._file: IO[bytes] | None = None
        with suppress(OSError):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        self._box = AESGCM(AESGCM.generate_key(128))
        self._end = 0
        self._in_memory: dict[int, bytes] = {}

    def add(self, values: Iterable[bytes]) -> list[int]:
        """Keep values; where each of them lies."""
        places = []
        for value in values:
            places.append(self._end)
            if value:
                if not self._is_written(value):
                    self._in_memory[self._end] = value
                self._end += len(value) + _TAG_BYTES  # also where it failed: no place is used for two values
        return places

    def read(self, at: int, n_bytes: int) -> bytes:
        """A value that lies there."""
        if not n_bytes:
            return b""
        if self._file is None or at in self._in_memory:
            return self._in_memory[at]
        return self._box.decrypt(_nonce(at), os.pread(self._file.fileno(), n_bytes + _TAG_BYTES, at), None)

    def _is_written(self, value: bytes) -> bool:
        try:
            sealed = self._box.encrypt(_nonce(self._end), value, None)
            return self._file is not None and os.pwrite(self._file.fileno(), sealed, self._end) == len(sealed)
        except OSError:
            return False


def _nonce(at: int) -> bytes:
    return at.to_bytes(_NONCE_BYTES)
