"""Stored values of one plane: straight from the file, or by pydicom's plugins where they are compressed.

Pixel encoding as in DICOM PS3.5 section 8: Bits Allocated (0028,0100), Bits Stored (0028,0101), High Bit (0028,0102)
and Pixel Representation (0028,0103); encapsulation as in section A.4.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import UID

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.elements import DEFLATED, Elements, NotDicomError, inflate, read_elements
from imaging_pipeline.intake.frames import PARSER_FAULTS, Thrifty
from imaging_pipeline.sources import Source, in_memory, open_source
from imaging_pipeline.volume.codecs import CODECS, UnfitError
from imaging_pipeline.volume.fragments import (
    DOUBLE_PIXELS,
    FLOAT_PIXELS,
    failed,
    stored_type,
    truncated,
    walk_fragments,
)

Plane = NDArray[Any]

_FORMAT_TAGS = frozenset(
    (0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103)
)

# pylibjpeg-libjpeg, which pydicom would take, may hang on a damaged JPEG
_FASTEST = {f"1.2.840.10008.1.2.4.{number}": "gdcm" for number in (50, 57, 70)}


@dataclass(slots=True)
class PixelFile:
    """One instance opened for its pixels; its frames may be asked for one by one.

    Attributes:
        path: Where it is.
        stream: The open file.
        elements: Pixel attributes and the place of the pixel data.
        fragments: Byte at which each piece of compressed pixels starts, and its length; empty where not compressed.
        dataset: The same instance read by pydicom, once a plugin of its needs it.
    """

    path: str
    stream: BinaryIO
    elements: Elements
    fragments: tuple[tuple[int, int], ...] = ()
    dataset: pydicom.FileDataset | None = None

    def close(self) -> None:
        """Close the file."""
        self.stream.close()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.elements.short(0x00280010), self.elements.short(0x00280011)

    def plane(self, frame: int | None, *, with_lut: bool = False) -> Plane:
        """Stored values (rows, columns) of a frame, or of the only one.

        Args:
            frame: Zero-based frame; None for the only one.
            with_lut: Look the stored values up in the instance's Modality LUT Sequence (0028,3000).

        Raises:
            PipelineError: `input-vanished`, `unsupported-transfer-syntax`, `truncated-pixels`, `precision-loss` or
                `decode-failed`.
        """
        plane = _decompressed(self, frame or 0) if self.fragments else _uncompressed(self, frame or 0)
        return _looked_up(plane, self.stream) if with_lut else plane


def open_pixels(path: str, source: Source = open_source) -> PixelFile:
    """Open an instance for its pixels.

    Args:
        path: Where it is.
        source: Opens it.

    Raises:
        PipelineError: See `PixelFile.plane`.
    """
    try:
        return _opened(path, in_memory(source(path), path))
    except (OSError, NotDicomError) as error:
        raise _vanished(error) from None
    except PARSER_FAULTS as error:
        raise failed(str(error)) from None


def _opened(path: str, stream: BinaryIO) -> PixelFile:
    stream.seek(0, 2)
    size_bytes = stream.tell()
    stream.seek(0)
    elements = read_elements(stream, size_bytes, _FORMAT_TAGS)
    if elements.pixel_bytes != -1:
        is_deflated = elements.transfer_syntax_uid == DEFLATED
        return PixelFile(path, cast(BinaryIO, inflate(stream)) if is_deflated else stream, elements)
    _check_decoder(elements.transfer_syntax_uid)
    stored_type(elements)  # refuses what decoders give up on, some of them with the whole process
    return PixelFile(path, stream, elements, walk_fragments(stream, elements))


def _uncompressed(file: PixelFile, frame: int) -> Plane:
    elements, (rows, columns) = file.elements, file.shape
    dtype = stored_type(elements)
    n_bytes = rows * columns * dtype.itemsize
    needed = (frame + 1) * n_bytes
    if elements.pixel_bytes is None or min(elements.pixel_bytes, elements.pixel_bytes_present) < needed:
        present = min(elements.pixel_bytes or 0, elements.pixel_bytes_present)
        raise PipelineError(
            Code.TRUNCATED_PIXELS,
            f"{columns} x {rows} pixels of {dtype.itemsize} bytes need {needed} bytes, {present} are in the file",
            "send the series again from its source",
        )
    try:
        file.stream.seek(elements.pixel_offset + frame * n_bytes)
        raw = file.stream.read(n_bytes)
    except OSError as error:
        raise _vanished(error) from None
    if len(raw) < n_bytes:
        raise truncated(f"{n_bytes} bytes of pixels are announced, {len(raw)} are in the file")
    stored = np.frombuffer(raw, dtype).reshape(rows, columns)
    if elements.pixel_tag in (FLOAT_PIXELS, DOUBLE_PIXELS):
        return stored
    return _within_stored_bits(stored, elements)


def _within_stored_bits(stored: Plane, elements: Elements) -> Plane:
    """Values without what may lie in the bits beside them: overlays of old, or rubbish (PS3.5 section 8.1.1)."""
    allocated, bits = elements.short(0x00280100), elements.short(0x00280101)
    if not 0 < bits < allocated:
        return stored
    above = allocated - 1 - max(elements.short(0x00280102), bits - 1)
    if above < 0:
        raise failed(f"High Bit (0028,0102) is {elements.short(0x00280102)} of {allocated} bits allocated")
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return (native << above) >> (allocated - bits)


def _decompressed(file: PixelFile, frame: int) -> Plane:
    syntax = file.elements.transfer_syntax_uid
    n_frames = file.elements.integer(0x00280008) or 1
    if syntax in CODECS and (n_frames == 1 or n_frames == len(file.fragments)):
        with suppress(UnfitError):
            return _decoded(file, file.fragments if n_frames == 1 else file.fragments[frame : frame + 1])
    file.dataset = file.dataset or _dataset(file.stream)
    plugin = _FASTEST.get(syntax, "")
    with _decoding():
        plane: Plane = pixel_array(file.dataset, index=frame, decoding_plugin=plugin)
    return plane


def _decoded(file: PixelFile, fragments: tuple[tuple[int, int], ...]) -> Plane:
    """A frame by a codec that is called directly."""
    (rows, columns), dtype = file.shape, stored_type(file.elements)
    with _decoding():
        frame = b"".join(_read_at(file.stream, offset, length) for offset, length in fragments)
        decoded = CODECS[file.elements.transfer_syntax_uid](frame, file.shape, dtype.itemsize)
        stored = decoded.view(dtype).reshape(rows, columns)
    return _within_stored_bits(stored, file.elements)


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except PARSER_FAULTS as error:
        raise failed(str(error)) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a codec in Rust: no Exception, in no module to import from
            raise
        raise failed(str(error)) from None


def _read_at(stream: BinaryIO, offset: int, length: int) -> bytes:
    stream.seek(offset)
    return stream.read(length)


def _dataset(stream: BinaryIO, *, with_pixels: bool = True) -> pydicom.FileDataset:
    stream.seek(0)
    try:
        return pydicom.dcmread(cast(BinaryIO, Thrifty(stream)), stop_before_pixels=not with_pixels, force=True)
    except PARSER_FAULTS as error:
        raise failed(str(error)) from None


def _looked_up(plane: Plane, stream: BinaryIO) -> Plane:
    try:
        looked_up: Plane = apply_modality_lut(plane, _dataset(stream, with_pixels=False))
    except PARSER_FAULTS as error:
        raise failed(f"Modality LUT Sequence (0028,3000): {error}") from None
    return looked_up


def _check_decoder(syntax: str) -> None:
    try:
        available = get_decoder(UID(syntax)).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise PipelineError(
            Code.UNSUPPORTED_TRANSFER_SYNTAX,
            f"no installed plugin decodes {UID(syntax).name} ({syntax})",
            "install pylibjpeg with pylibjpeg-openjpeg and pylibjpeg-libjpeg, or python-gdcm; "
            "what none of them reads must be sent in another transfer syntax",
        )


def _vanished(error: Exception) -> PipelineError:
    reason = getattr(error, "strerror", None) or "its content has changed"
    return PipelineError(Code.INPUT_VANISHED, f"a slice cannot be read any more: {reason}", "run again when it is back")
