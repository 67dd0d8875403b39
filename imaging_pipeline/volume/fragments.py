"""Compressed pixels before a decoder sees them: where each fragment lies, and whether it can be what the header says.

Encapsulation as in DICOM PS3.5 section A.4. Decoders fill what is missing of a cut picture with grey without a word,
take the memory that a damaged one asks for, or take the process down: what they get is checked here first.
"""

import struct
from typing import Any, BinaryIO

import numpy as np
from pydicom.uid import UID

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.elements import EXPLICIT_BIG, Elements
from imaging_pipeline.volume.codecs import RLE
from imaging_pipeline.volume.codestreams import HEAD_BYTES, read_frame_header, starts_codestream

FLOAT_PIXELS, DOUBLE_PIXELS = 0x7FE00008, 0x7FE00009

_LOSSY_JPEG = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55))
_CODESTREAMS = "1.2.840.10008.1.2.4."  # JPEG, JPEG-LS, JPEG 2000: all end with the marker FFD9
_END_OF_IMAGE = b"\xff\xd9"
_LARGE_PLANE_BYTES, _LARGEST_RATIO = 1 << 26, 1000  # planes of air shrink by more, but are far smaller
_RLE_RATIO = 64  # 2 bytes stand for 128 at most, PS3.5 section G.3.1
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD


def walk_fragments(stream: BinaryIO, elements: Elements) -> tuple[tuple[int, int], ...]:
    """Byte at which each fragment starts, and its length.

    Every fragment must lie in the file, and a picture must end where it says.

    Args:
        stream: The file.
        elements: Its pixel attributes.

    Raises:
        PipelineError: `truncated-pixels`, `too-large`, `precision-loss` or `decode-failed`.
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
            raise failed(f"({group:04x},{number:04x}) stands where a fragment of the pixels belongs")
        if offset + 8 + length > end:
            raise truncated(f"a fragment of {length} bytes is announced, {end - offset - 8} are in the file")
        if found:  # the first item is the table of offsets
            _check_fragment(stream.read(min(length, HEAD_BYTES)), length, len(found) == 1, elements)
        found.append((offset + 8, length))
        stream.seek(offset + 8 + max(0, length - 4))
        tail = stream.read(min(length, 4)) or tail
        offset += 8 + length
    if elements.transfer_syntax_uid.startswith(_CODESTREAMS) and _END_OF_IMAGE not in tail:
        raise truncated("the compressed pixels end without an end marker")
    if len(found) < 2:
        raise truncated("the compressed pixels are empty")
    return tuple(found[1:])


def _check_fragment(head: bytes, length: int, is_first: bool, elements: Elements) -> None:
    if elements.transfer_syntax_uid.startswith(_CODESTREAMS) and (is_first or starts_codestream(head)):
        _check_codestream(head, elements)
    elif elements.transfer_syntax_uid == RLE:
        n_bytes = elements.short(0x00280010) * elements.short(0x00280011) * stored_type(elements).itemsize
        if length * _RLE_RATIO < n_bytes:
            raise truncated(f"a fragment of {length} bytes cannot hold {n_bytes} in runs of 128 at most")


def _check_codestream(head: bytes, elements: Elements) -> None:
    """Compare what a codestream says of itself with the DICOM header, which the limits of intake have seen."""
    frame = read_frame_header(head)
    if frame is None:
        raise failed("the compressed pixels have no frame header")
    rows, columns = elements.short(0x00280010), elements.short(0x00280011)
    if (frame.rows, frame.columns, frame.samples) != (rows, columns, elements.short(0x00280002) or 1):
        raise failed(
            f"{frame.columns} x {frame.rows} pixels of {frame.samples} samples are compressed, "
            f"the header says {columns} x {rows} of {elements.short(0x00280002) or 1}"
        )
    n_bytes = rows * columns * stored_type(elements).itemsize
    if n_bytes > _LARGE_PLANE_BYTES and n_bytes > _LARGEST_RATIO * elements.pixel_bytes_present:
        raise PipelineError(
            Code.TOO_LARGE,
            f"{columns} x {rows} pixels are announced by {elements.pixel_bytes_present} compressed bytes",
            "send the series again from its source",
        )
    if frame.bits > elements.short(0x00280100):
        raise failed(f"{frame.bits} bits a pixel are compressed, {elements.short(0x00280100)} allocated")
    if elements.transfer_syntax_uid in _LOSSY_JPEG and frame.bits < elements.short(0x00280101):
        raise PipelineError(
            Code.PRECISION_LOSS,
            f"{UID(elements.transfer_syntax_uid).name} holds {frame.bits} bits a pixel, "
            f"the header says {elements.short(0x00280101)}",
            "send the series in a lossless transfer syntax",
        )


def stored_type(elements: Elements) -> np.dtype[Any]:
    """Type of a stored value, in the byte order of the file.

    Raises:
        PipelineError: `decode-failed` for depths and samples that are not read here.
    """
    order = ">" if elements.transfer_syntax_uid == EXPLICIT_BIG else "<"
    if elements.pixel_tag in (FLOAT_PIXELS, DOUBLE_PIXELS):
        return np.dtype(f"{order}f{4 if elements.pixel_tag == FLOAT_PIXELS else 8}")
    bits, samples = elements.short(0x00280100), elements.short(0x00280002) or 1
    if bits not in (8, 16, 32) or samples != 1:
        raise failed(f"{bits} bits allocated and {samples} samples a pixel; 8, 16 or 32 bits of one sample are read")
    return np.dtype(f"{order}{'i' if elements.short(0x00280103) else 'u'}{bits // 8}")


def truncated(message: str) -> PipelineError:
    """Pixels that end too early."""
    return PipelineError(Code.TRUNCATED_PIXELS, message, "send the series again from its source")


def failed(message: str) -> PipelineError:
    """Pixels that cannot be decoded."""
    return PipelineError(Code.DECODE_FAILED, " ".join(message.split())[:300], "send the series again from its source")
