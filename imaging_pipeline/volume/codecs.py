"""Codecs called without pydicom's wrapping, where that saves a tenth or more of a slice's time."""

from collections.abc import Callable, Mapping

import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from rle.rle import decode_frame

RLE = "1.2.840.10008.1.2.5"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"

Codec = Callable[[bytes, int, int], NDArray[np.uint8]]
"""Compressed frame, pixels, bytes a pixel → little-endian bytes of the pixels."""


def _rle(frame: bytes, n_pixels: int, pixel_bytes: int) -> NDArray[np.uint8]:
    """DICOM PS3.5 annex G."""
    return np.frombuffer(decode_frame(frame, n_pixels, 8 * pixel_bytes, "<"), np.uint8)


def _jpeg_ls(frame: bytes, n_pixels: int, pixel_bytes: int) -> NDArray[np.uint8]:
    """ITU-T T.87."""
    decoded = np.frombuffer(jpeg_ls.decode_pixel_data(frame)[0], np.uint8)
    if decoded.size == n_pixels and pixel_bytes == 2:  # samples of up to 8 bits come as bytes
        return decoded.astype("<u2").view(np.uint8)
    return decoded


CODECS: Mapping[str, Codec] = {RLE: _rle, JPEG_LS: _jpeg_ls, JPEG_LS_NEAR_LOSSLESS: _jpeg_ls}
"""By transfer syntax."""
