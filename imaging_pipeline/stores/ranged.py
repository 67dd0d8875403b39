"""An object of a store as a file: parts of it are fetched as they are read, none of it twice in a row."""

import io
from typing import Any

from imaging_pipeline.stores.settings import StorageSettings
from imaging_pipeline.stores.urls import filesystem, protocol_of, store_errors

FIRST_BYTES = 1 << 16
"""Most headers of DICOM instances are shorter."""
LARGEST_BYTES = 1 << 24


class RangedFile(io.RawIOBase):
    """Reads ranges of one object; each that follows the one before asks for twice as much.

    Neither opening nor reading asks for the size first: a range that comes back short tells where the end is.
    """

    def __init__(self, url: str, storage: StorageSettings) -> None:
        """Fetch nothing yet.

        Args:
            url: The object.
            storage: Where its store is.

        Raises:
            PipelineError: `extra-missing`.
            OSError: The store cannot be opened.
        """
        self._url = url
        self._protocol = protocol_of(url)
        self._filesystem: Any = filesystem(url, storage)
        # fsspec takes a range that starts at 0 for a stream without places, which gives no ranges
        self._how = {"seekable": True} if self._protocol == "hdfs" else {}
        self._offset = 0
        self._next_bytes = FIRST_BYTES
        self._start = 0
        self._held = b""
        self._size: int | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Byte that is read next."""
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte; only its distance from the end asks for the size."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset}.get(whence)
        self._offset = max(0, offset + (self._size_bytes() if base is None else base))
        return self._offset

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as one range goes.

        Raises:
            OSError: The object is gone, or cannot be read.
        """
        into = memoryview(buffer).cast("B")
        if not self._start <= self._offset < self._start + len(self._held):
            self._fetch(len(into))
        first = self._offset - self._start
        piece = self._held[first : first + len(into)]
        into[: len(piece)] = piece
        self._offset += len(piece)
        return len(piece)

    def whole(self, limit: int) -> bytes | None:
        """The object by one request where it is no longer than `limit`; else None, and its start is held."""
        self._start, self._held = 0, self._range(0, limit)
        if len(self._held) < limit:
            return self._held
        self._next_bytes = LARGEST_BYTES
        return None

    def _fetch(self, n_bytes: int) -> None:
        if self._offset != self._start + len(self._held):
            self._next_bytes = min(self._next_bytes, FIRST_BYTES)
        wanted = max(n_bytes, self._next_bytes)
        self._start, self._held = self._offset, self._range(self._offset, wanted)
        self._next_bytes = min(max(2 * wanted, self._next_bytes), LARGEST_BYTES)

    def _range(self, start: int, n_bytes: int) -> bytes:
        if self._size is not None and start >= self._size:
            return b""
        try:
            with store_errors(self._protocol):
                found = bytes(self._filesystem.cat_file(self._url, start=start, end=start + n_bytes, **self._how))
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            if start >= self._size_bytes():  # stores refuse a range behind the end
                return b""
            raise
        if len(found) < n_bytes:
            self._size = start + len(found)
        return found

    def _size_bytes(self) -> int:
        if self._size is None:
            with store_errors(self._protocol):
                self._size = int(self._filesystem.info(self._url)["size"])
        return self._size
