"""What compressed pixels say of themselves, before a decoder believes it and takes memory."""

import struct
from dataclasses import dataclass

HEAD_BYTES = 1 << 16
"""The frame header of a codestream is looked for in so many bytes from its start."""

_JPEG_START, _JPEG_2000_START, _JP2_SIGNATURE = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_LOSSLESS = 0xC3
_SEGMENTS = frozenset((0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0), 0xF8))  # may stand before a scan header


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """Size of a coded picture.

    Attributes:
        bits: Bits of a sample.
        samples: Samples of a pixel.
        kind: Marker of the frame header, 0 for JPEG 2000.
    """

    rows: int
    columns: int
    bits: int
    samples: int
    kind: int = 0


def starts_codestream(head: bytes) -> bool:
    """Whether bytes are the start of a picture, rather than a further part of one."""
    return head.startswith((_JPEG_START, _JPEG_2000_START, _JP2_SIGNATURE))


def read_frame_header(head: bytes) -> FrameHeader | None:
    """The size in a JPEG, JPEG-LS or JPEG 2000 codestream; None where it is not among the first bytes.

    Frame header as in ITU-T T.81 section B.2.2 and T.87 section C.2.2, SIZ marker segment as in T.800 section A.5.1.
    """
    return _jpeg(head) if head.startswith(_JPEG_START) else _jpeg_2000(head)


def _jpeg(head: bytes) -> FrameHeader | None:
    """The frame header, if every marker up to the first scan stands where it should.

    Decoders end the process over scans that no frame, or another one, stands before.
    """
    offset, frame = 2, None
    while offset + 10 <= len(head) and head[offset] == 0xFF:
        marker, length = head[offset + 1], int.from_bytes(head[offset + 2 : offset + 4], "big")
        if marker == 0xDA:
            return frame if frame is not None and _is_scan_of(frame, head[offset + 4 : offset + 2 + length]) else None
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            bits, rows, columns, samples = struct.unpack_from(">BHHB", head, offset + 4)
            if frame is not None or length != 8 + 3 * samples or not 2 <= bits <= 16:
                return None
            frame = FrameHeader(rows=rows, columns=columns, bits=bits, samples=samples, kind=marker)
        elif marker not in _SEGMENTS:
            return None
        offset += 2 + length
    return None


def _is_scan_of(frame: FrameHeader, scan: bytes) -> bool:
    """Whether a scan header (ITU-T T.81 section B.2.3) is of all samples, and of a predictor if one is needed."""
    if len(scan) != 4 + 2 * frame.samples or scan[0] != frame.samples:
        return False
    return frame.kind != _LOSSLESS or 1 <= scan[-3] <= 7


def _jpeg_2000(head: bytes) -> FrameHeader | None:
    at = head.find(_JPEG_2000_START)
    if at < 0 or at + 43 > len(head):
        return None
    right, bottom, left, top = struct.unpack_from(">4L", head, at + 8)
    samples, depth = struct.unpack_from(">HB", head, at + 40)
    return FrameHeader(rows=bottom - top, columns=right - left, bits=(depth & 0x7F) + 1, samples=samples)
