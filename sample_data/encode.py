"""Pixels into the bytes of a transfer syntax."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

Frame = NDArray[np.integer]


def encode(ds: Dataset, frames: Iterable[Frame], transfer_syntax: str) -> None:
    """Set Pixel Data (7FE0,0010) of `ds` to the frames, in the syntax's byte order or compressed without loss.

    Args:
        ds: Carries the Image Pixel module already (PS3.3 C.7.6.3).
        frames: Each (rows, columns), int16 or uint16.
        transfer_syntax: UID of an uncompressed or lossless transfer syntax. JPEG 2000 needs 32 rows and columns or
            more.

    Raises:
        ValueError: No encoder for the transfer syntax is known here.
        ImportError: The package with the encoder is not installed.
    """
    uid = UID(transfer_syntax)
    if not uid.is_compressed or uid.is_deflated:
        order = ">" if uid == ExplicitVRBigEndian else "<"
        ds.PixelData = b"".join(frame.astype(f"{order}{frame.dtype.str[1:]}").tobytes() for frame in frames)
        return
    if uid not in ENCODERS:
        known = ", ".join(sorted(ENCODERS))
        raise ValueError(f"no lossless encoder for transfer syntax {uid} ({uid.name}); known: {known}")
    ds.PixelData = encapsulate([ENCODERS[uid](frame, ds, uid) for frame in frames])
    ds["PixelData"].VR = "OB"


def _with_pydicom(frame: Frame, ds: Dataset, uid: UID) -> bytes:
    plugin = {RLELossless: "gdcm", JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}[uid]
    options = {
        "rows": ds.Rows,
        "columns": ds.Columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": ds.BitsAllocated,
        "bits_stored": ds.BitsStored,
        "pixel_representation": ds.PixelRepresentation,
        "photometric_interpretation": ds.PhotometricInterpretation,
    }
    return get_encoder(uid).encode(frame, encoding_plugin=plugin, **options)


def _with_gdcm(frame: Frame, ds: Dataset, uid: UID) -> bytes:
    """JPEG Lossless, which pydicom cannot write."""
    import gdcm

    # An image outside a writer has no owner in the Python binding and is freed early.
    writer = gdcm.ImageWriter()
    converter = gdcm.ImageChangeTransferSyntax()
    converter.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(uid))))
    converter.SetInput(_gdcm_image(gdcm, writer.GetImage(), frame, ds))
    if not converter.Change():
        raise RuntimeError(f"gdcm could not encode a {frame.shape} frame of {ds.BitsStored} bits as {uid.name}")
    fragments = converter.GetOutput().GetDataElement().GetSequenceOfFragments()
    parts = (fragments.GetFragment(n).GetByteValue() for n in range(fragments.GetNumberOfFragments()))
    return b"".join(part.GetBuffer().encode("utf-8", "surrogateescape") for part in parts)


def _gdcm_image(gdcm: Any, image: Any, frame: Frame, ds: Dataset) -> Any:
    image.SetNumberOfDimensions(2)
    image.SetDimensions((frame.shape[1], frame.shape[0], 1))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ImplicitVRLittleEndian))
    image.SetPixelFormat(
        gdcm.PixelFormat(1, ds.BitsAllocated, ds.BitsStored, ds.BitsStored - 1, ds.PixelRepresentation)
    )
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(frame.astype(f"<{frame.dtype.str[1:]}").tobytes())
    image.SetDataElement(element)
    return image


def _with_imagecodecs(frame: Frame, _ds: Dataset, uid: UID) -> bytes:
    try:
        import imagecodecs
    except ImportError as error:
        raise ImportError(f"{uid.name} needs an encoder that is not installed: pip install imagecodecs") from error
    return bytes(imagecodecs.htj2k_encode(frame, reversible=True))


ENCODERS: dict[str, Callable[[Frame, Dataset, UID], bytes]] = {
    RLELossless: _with_pydicom,
    JPEGLSLossless: _with_pydicom,
    JPEG2000Lossless: _with_pydicom,
    JPEGLossless: _with_gdcm,
    JPEGLosslessSV1: _with_gdcm,
    HTJ2KLossless: _with_imagecodecs,
}
