"""Codecs called without pydicom's wrapping, where that saves a tenth or more of a slice's time."""

from collections.abc import Callable, Mapping

import gdcm
import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from rle.rle import decode_frame

from imaging_pipeline.volume.codestreams import HEAD_BYTES, read_frame_header

RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"


class UnfitError(Exception):
    """A frame for pydicom's own way of calling the codec."""


Codec = Callable[[bytes, tuple[int, int], int], NDArray[np.uint8]]
"""Compressed frame, (rows, columns), bytes a pixel → little-endian bytes of the pixels."""


def _rle(frame: bytes, shape: tuple[int, int], pixel_bytes: int) -> NDArray[np.uint8]:
    """DICOM PS3.5 annex G."""
    return np.frombuffer(decode_frame(frame, shape[0] * shape[1], 8 * pixel_bytes, "<"), np.uint8)


def _jpeg_lossless(frame: bytes, shape: tuple[int, int], pixel_bytes: int) -> NDArray[np.uint8]:
    """ITU-T T.81 process 14, by GDCM, which aborts the process where depth and container do not fit together."""
    header = read_frame_header(frame[:HEAD_BYTES])
    if header is None or pixel_bytes != (1 if header.bits <= 8 else 2):
        raise UnfitError
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((shape[1], shape[0], 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    bits = 8 * pixel_bytes
    image.SetPixelFormat(gdcm.PixelFormat(1, bits, bits, bits - 1, 0))
    buffer = image.GetBuffer()
    if buffer is None:
        raise ValueError("GDCM cannot decode the JPEG")
    return np.frombuffer(buffer.encode("utf-8", errors="surrogateescape"), np.uint8)


def _jpeg_ls(frame: bytes, shape: tuple[int, int], pixel_bytes: int) -> NDArray[np.uint8]:
    """ITU-T T.87."""
    decoded = np.frombuffer(jpeg_ls.decode_pixel_data(frame)[0], np.uint8)
    if decoded.size == shape[0] * shape[1] and pixel_bytes == 2:  # samples of up to 8 bits come as bytes
        return decoded.astype("<u2").view(np.uint8)
    return decoded


CODECS: Mapping[str, Codec] = {
    RLE: _rle,
    JPEG_LOSSLESS: _jpeg_lossless,
    JPEG_LOSSLESS_SV1: _jpeg_lossless,
    JPEG_LS: _jpeg_ls,
    JPEG_LS_NEAR_LOSSLESS: _jpeg_ls,
}
"""By transfer syntax."""
