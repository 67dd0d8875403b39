"""What compressed pixels say of themselves, before a decoder believes it and takes memory."""

import struct
from dataclasses import dataclass

HEAD_BYTES = 1 << 16
"""The frame header of a codestream is looked for in so many bytes from its start."""

_JPEG_START, _JPEG_2000_START, _JP2_SIGNATURE = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a segment behind them, ITU-T T.81 table B.1


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """Size of a coded picture.

    Attributes:
        bits: Bits of a sample.
        samples: Samples of a pixel.
    """

    rows: int
    columns: int
    bits: int
    samples: int


def starts_codestream(head: bytes) -> bool:
    """Whether bytes are the start of a picture, rather than a further part of one."""
    return head.startswith((_JPEG_START, _JPEG_2000_START, _JP2_SIGNATURE))


def read_frame_header(head: bytes) -> FrameHeader | None:
    """The size in a JPEG, JPEG-LS or JPEG 2000 codestream; None where it is not among the first bytes.

    Frame header as in ITU-T T.81 section B.2.2 and T.87 section C.2.2, SIZ marker segment as in T.800 section A.5.1.
    """
    return _jpeg(head) if head.startswith(_JPEG_START) else _jpeg_2000(head)


def _jpeg(head: bytes) -> FrameHeader | None:
    offset = 2
    while offset + 10 <= len(head) and head[offset] == 0xFF:
        marker, length = head[offset + 1], int.from_bytes(head[offset + 2 : offset + 4], "big")
        if marker == 0xFF or marker in _STANDALONE:
            offset += 1 if marker == 0xFF else 2
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            bits, rows, columns, samples = struct.unpack_from(">BHHB", head, offset + 4)
            return FrameHeader(rows=rows, columns=columns, bits=bits, samples=samples)
        offset += 2 + length
    return None


def _jpeg_2000(head: bytes) -> FrameHeader | None:
    at = head.find(_JPEG_2000_START)
    if at < 0 or at + 43 > len(head):
        return None
    right, bottom, left, top = struct.unpack_from(">4L", head, at + 8)
    samples, depth = struct.unpack_from(">HB", head, at + 40)
    return FrameHeader(rows=bottom - top, columns=right - left, bits=(depth & 0x7F) + 1, samples=samples)
