"""Stored values of one plane: straight from the file, or by pydicom's plugins where they are compressed.

Pixel encoding as in DICOM PS3.5 section 8: Bits Allocated (0028,0100), Bits Stored (0028,0101), High Bit (0028,0102)
and Pixel Representation (0028,0103); encapsulation as in section A.4.
"""

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import UID

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.elements import DEFLATED, EXPLICIT_BIG, Elements, NotDicomError, inflate, read_elements
from imaging_pipeline.intake.frames import PARSER_FAULTS, Thrifty
from imaging_pipeline.sources import Source, in_memory, open_source
from imaging_pipeline.volume.codecs import CODECS, RLE
from imaging_pipeline.volume.codestreams import HEAD_BYTES, read_frame_header, starts_codestream

Plane = NDArray[Any]

FLOAT_PIXELS, DOUBLE_PIXELS = 0x7FE00008, 0x7FE00009
_FORMAT_TAGS = frozenset(
    (0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103)
)

# measured on 512 x 512 CT slices: the fastest plugin; pylibjpeg-libjpeg may hang on a damaged JPEG
_FASTEST = {
    "1.2.840.10008.1.2.4.50": "gdcm",
    "1.2.840.10008.1.2.4.51": "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
}
_LOSSY_JPEG = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55))
_CODESTREAMS = "1.2.840.10008.1.2.4."  # JPEG, JPEG-LS, JPEG 2000: all end with the marker FFD9
_END_OF_IMAGE = b"\xff\xd9"
_LARGE_PLANE_BYTES, _LARGEST_RATIO = 1 << 26, 1000  # planes of air shrink by more, but are far smaller
_RLE_RATIO = 64  # 2 bytes stand for 128 at most, PS3.5 section G.3.1
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD


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
        raise _failed(str(error)) from None


def _opened(path: str, stream: BinaryIO) -> PixelFile:
    stream.seek(0, 2)
    size_bytes = stream.tell()
    stream.seek(0)
    elements = read_elements(stream, size_bytes, _FORMAT_TAGS)
    if elements.pixel_bytes != -1:
        is_deflated = elements.transfer_syntax_uid == DEFLATED
        return PixelFile(path, cast(BinaryIO, inflate(stream)) if is_deflated else stream, elements)
    _check_decoder(elements.transfer_syntax_uid)
    _stored_type(elements)  # refuses what decoders give up on, some of them with the whole process
    return PixelFile(path, stream, elements, _fragments(stream, elements))


def _uncompressed(file: PixelFile, frame: int) -> Plane:
    elements, (rows, columns) = file.elements, file.shape
    dtype = _stored_type(elements)
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
        raise _truncated(f"{n_bytes} bytes of pixels are announced, {len(raw)} are in the file")
    stored = np.frombuffer(raw, dtype).reshape(rows, columns)
    if elements.pixel_tag in (FLOAT_PIXELS, DOUBLE_PIXELS):
        return stored
    return _within_stored_bits(stored, elements)


def _stored_type(elements: Elements) -> np.dtype[Any]:
    order = ">" if elements.transfer_syntax_uid == EXPLICIT_BIG else "<"
    if elements.pixel_tag in (FLOAT_PIXELS, DOUBLE_PIXELS):
        return np.dtype(f"{order}f{4 if elements.pixel_tag == FLOAT_PIXELS else 8}")
    bits, samples = elements.short(0x00280100), elements.short(0x00280002) or 1
    if bits not in (8, 16, 32) or samples != 1:
        raise _failed(f"{bits} bits allocated and {samples} samples a pixel; 8, 16 or 32 bits of one sample are read")
    return np.dtype(f"{order}{'i' if elements.short(0x00280103) else 'u'}{bits // 8}")


def _within_stored_bits(stored: Plane, elements: Elements) -> Plane:
    """Values without what may lie in the bits beside them: overlays of old, or rubbish (PS3.5 section 8.1.1)."""
    allocated, bits = elements.short(0x00280100), elements.short(0x00280101)
    if not 0 < bits < allocated:
        return stored
    above = allocated - 1 - max(elements.short(0x00280102), bits - 1)
    if above < 0:
        raise _failed(f"High Bit (0028,0102) is {elements.short(0x00280102)} of {allocated} bits allocated")
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return (native << above) >> (allocated - bits)


def _decompressed(file: PixelFile, frame: int) -> Plane:
    syntax = file.elements.transfer_syntax_uid
    n_frames = file.elements.integer(0x00280008) or 1
    if syntax in CODECS and (n_frames == 1 or n_frames == len(file.fragments)):
        return _decoded(file, file.fragments if n_frames == 1 else file.fragments[frame : frame + 1])
    file.dataset = file.dataset or _dataset(file.stream)
    plugin = _FASTEST.get(syntax, "")
    try:
        plane: Plane = pixel_array(file.dataset, index=frame, decoding_plugin=plugin)
    except PARSER_FAULTS as error:
        raise _failed(str(error)) from None
    return plane


def _decoded(file: PixelFile, fragments: tuple[tuple[int, int], ...]) -> Plane:
    """A frame by a codec that is called directly."""
    (rows, columns), dtype = file.shape, _stored_type(file.elements)
    try:
        frame = b"".join(_read_at(file.stream, offset, length) for offset, length in fragments)
        decoded = CODECS[file.elements.transfer_syntax_uid](frame, rows * columns, dtype.itemsize)
        stored = decoded.view(dtype).reshape(rows, columns)
    except PARSER_FAULTS as error:
        raise _failed(str(error)) from None
    return _within_stored_bits(stored, file.elements)


def _read_at(stream: BinaryIO, offset: int, length: int) -> bytes:
    stream.seek(offset)
    return stream.read(length)


def _dataset(stream: BinaryIO, *, with_pixels: bool = True) -> pydicom.FileDataset:
    stream.seek(0)
    try:
        return pydicom.dcmread(cast(BinaryIO, Thrifty(stream)), stop_before_pixels=not with_pixels, force=True)
    except PARSER_FAULTS as error:
        raise _failed(str(error)) from None


def _looked_up(plane: Plane, stream: BinaryIO) -> Plane:
    try:
        looked_up: Plane = apply_modality_lut(plane, _dataset(stream, with_pixels=False))
    except PARSER_FAULTS as error:
        raise _failed(f"Modality LUT Sequence (0028,3000): {error}") from None
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


def _fragments(stream: BinaryIO, elements: Elements) -> tuple[tuple[int, int], ...]:
    """Walk the fragments of encapsulated pixels: each must lie in the file, a codestream must end where it says.

    Decoders fill what is missing of a cut codestream with grey, without a word.
    """
    stream.seek(elements.pixel_offset)
    end = elements.pixel_offset + elements.pixel_bytes_present
    tail, offset, found = b"", elements.pixel_offset, list[tuple[int, int]]()
    while offset + 8 <= end:
        stream.seek(offset)
        group, number, length = struct.unpack("<HHL", stream.read(8))
        if group << 16 | number == _SEQUENCE_END:
            break
        if group << 16 | number != _ITEM:
            raise _failed(f"({group:04x},{number:04x}) stands where a fragment of the pixels belongs")
        if offset + 8 + length > end:
            raise _truncated(f"a fragment of {length} bytes is announced, {end - offset - 8} are in the file")
        if found:  # the first item is the table of offsets
            _check_fragment(stream.read(min(length, HEAD_BYTES)), length, len(found) == 1, elements)
        found.append((offset + 8, length))
        stream.seek(offset + 8 + max(0, length - 4))
        tail = stream.read(min(length, 4)) or tail
        offset += 8 + length
    if elements.transfer_syntax_uid.startswith(_CODESTREAMS) and _END_OF_IMAGE not in tail:
        raise _truncated("the compressed pixels end without an end marker")
    if len(found) < 2:
        raise _truncated("the compressed pixels are empty")
    return tuple(found[1:])


def _check_fragment(head: bytes, length: int, is_first: bool, elements: Elements) -> None:
    if elements.transfer_syntax_uid.startswith(_CODESTREAMS) and (is_first or starts_codestream(head)):
        _check_codestream(head, elements)
    elif elements.transfer_syntax_uid == RLE:
        n_bytes = elements.short(0x00280010) * elements.short(0x00280011) * _stored_type(elements).itemsize
        if length * _RLE_RATIO < n_bytes:
            raise _truncated(f"a fragment of {length} bytes cannot hold {n_bytes} in runs of 128 at most")


def _check_codestream(head: bytes, elements: Elements) -> None:
    """Compare what a codestream says of itself with the DICOM header, which the limits of intake have seen."""
    frame = read_frame_header(head)
    if frame is None:
        raise _failed("the compressed pixels have no frame header")
    rows, columns = elements.short(0x00280010), elements.short(0x00280011)
    if (frame.rows, frame.columns, frame.samples) != (rows, columns, elements.short(0x00280002) or 1):
        raise _failed(
            f"{frame.columns} x {frame.rows} pixels of {frame.samples} samples are compressed, "
            f"the header says {columns} x {rows} of {elements.short(0x00280002) or 1}"
        )
    n_bytes = rows * columns * _stored_type(elements).itemsize
    if n_bytes > _LARGE_PLANE_BYTES and n_bytes > _LARGEST_RATIO * elements.pixel_bytes_present:
        raise PipelineError(
            Code.TOO_LARGE,
            f"{columns} x {rows} pixels are announced by {elements.pixel_bytes_present} compressed bytes",
            "send the series again from its source",
        )
    if frame.bits > elements.short(0x00280100):
        raise _failed(f"{frame.bits} bits a pixel are compressed, {elements.short(0x00280100)} allocated")
    if elements.transfer_syntax_uid in _LOSSY_JPEG and frame.bits < elements.short(0x00280101):
        raise PipelineError(
            Code.PRECISION_LOSS,
            f"{UID(elements.transfer_syntax_uid).name} holds {frame.bits} bits a pixel, "
            f"the header says {elements.short(0x00280101)}",
            "send the series in a lossless transfer syntax",
        )


def _vanished(error: Exception) -> PipelineError:
    reason = getattr(error, "strerror", None) or "its content has changed"
    return PipelineError(Code.INPUT_VANISHED, f"a slice cannot be read any more: {reason}", "run again when it is back")


def _truncated(message: str) -> PipelineError:
    return PipelineError(Code.TRUNCATED_PIXELS, message, "send the series again from its source")


def _failed(message: str) -> PipelineError:
    return PipelineError(Code.DECODE_FAILED, " ".join(message.split())[:300], "send the series again from its source")
