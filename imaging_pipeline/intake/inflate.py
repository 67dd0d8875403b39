"""Deflated data sets (DICOM PS3.5 section A.5), inflated no further than they are asked for: 1 KB may hold 1 MB."""

import io
import zlib


class Inflated(io.BufferedIOBase):
    """What deflated bytes stand for, to be read at any place."""

    def __init__(self, deflated: bytes) -> None:
        """Start before the first byte."""
        self._deflated = deflated
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._inflated = bytearray()
        self._offset = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether all was inflated, or all that is left of a file that breaks off."""
        return self._inflater.eof or not self._deflated

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """From the start and from where it is."""
        return True

    def tell(self) -> int:
        """Byte that is read next."""
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte, which need not be inflated yet.

        Raises:
            UnsupportedOperation: Its distance from the end is not known.
        """
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation
        self._offset = max(0, offset + (self._offset if whence == io.SEEK_CUR else 0))
        return self._offset

    def read(self, size: int | None = -1) -> bytes:
        """Read and inflate `size` bytes, fewer at the end.

        Raises:
            UnsupportedOperation: No size is given: there is no telling how many bytes these are.
            OSError: The bytes are no deflated ones.
        """
        if size is None or size < 0:
            raise io.UnsupportedOperation
        start, end = self._offset, self._offset + size
        try:
            while len(self._inflated) < end and not self.is_exhausted:
                self._inflated += self._inflater.decompress(self._deflated, end - len(self._inflated))
                self._deflated = self._inflater.unconsumed_tail
        except zlib.error as error:
            raise OSError(0, f"the data set cannot be inflated: {error}") from None
        self._offset = min(end, max(start, len(self._inflated)))
        return bytes(self._inflated[start:end])
