"""A DICOM header as raw bytes by tag: one pass over the file's start, no value is decoded that nobody asks for.

DICOM PS3.5 section 7 (data elements) and PS3.10 section 7 (file meta information). Values nested in sequences are
left to pydicom.
"""

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.inflate import Inflated

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

CHUNK_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 26
"""A header longer than 64 MiB is taken for damaged; the largest seen in the field are a few MiB."""
MAX_DECIMAL_LENGTH = 16
MAX_DEPTH = 32
"""Nesting of sequences beyond this is taken for an attack; the standard's own modules nest 6 deep."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()  # PS3.5 table 7.1-2
)
_VRS = _SHORT_VRS | _LONG_VRS
_NUMBER_FORMATS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_PIXEL_GROUP, _ITEM_GROUP = 0x7FE0, 0xFFFE

_HEAD: Callable[[bytes, int], tuple[int, int, bytes, int]] = struct.Struct("<HH2sH").unpack_from
_LENGTH: Callable[[bytes, int], tuple[int]] = struct.Struct("<L").unpack_from


class NotDicomError(Exception):
    """The file does not start like DICOM."""


@dataclass(slots=True)
class Elements:
    """Raw values of the wanted top-level elements of one file.

    Attributes:
        values: Tag to value bytes.
        transfer_syntax_uid: (0002,0010), or Implicit VR Little Endian where there is no file meta information.
        pixel_bytes: Declared length of the pixel data; None without pixel data, -1 where it is encapsulated.
        pixel_bytes_present: Bytes of the file behind the start of the pixel data.
        pixel_tag: Which element holds the pixels: integers, float or double.
        pixel_offset: Byte of the file at which the pixel data start; of the inflated data set where it is deflated.
    """

    transfer_syntax_uid: str = IMPLICIT_LITTLE
    values: dict[int, bytes] = field(default_factory=dict)
    pixel_bytes: int | None = None
    pixel_bytes_present: int = 0
    pixel_tag: int = 0
    pixel_offset: int = 0

    def text(self, tag: int) -> str:
        """Value of a text element, padding stripped; empty where absent."""
        raw = self.values.get(tag, b"").strip(b" \0")
        if raw.isascii():
            return raw.decode("ascii")
        return _decode(raw, self.values.get(0x00080005, b""))

    def texts(self, tag: int) -> tuple[str, ...]:
        """Values of a multi-valued text element."""
        text = self.text(tag)
        return tuple(part.strip() for part in text.split("\\")) if text else ()

    def floats(self, tag: int, count: int) -> tuple[float, ...] | None:
        """Exactly `count` finite numbers of a decimal string, however long; None where absent or damaged."""
        try:
            numbers = tuple(float(part) for part in self.values[tag].strip(b" \0").split(b"\\"))
        except (KeyError, ValueError):
            return None
        return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None

    def is_overlong(self, tag: int) -> bool:
        """Whether a value of a decimal string is longer than the 16 characters that PS3.5 table 6.2-1 allows."""
        raw = self.values.get(tag, b"")
        return len(raw) > MAX_DECIMAL_LENGTH and any(
            len(part.strip(b" \0")) > MAX_DECIMAL_LENGTH for part in raw.split(b"\\")
        )

    def is_no_number(self, tag: int, count: int) -> bool:
        """Whether a decimal string has a value that is not `count` finite numbers."""
        return bool(self.values.get(tag, b"").strip(b" \0")) and self.floats(tag, count) is None

    def number(self, tag: int) -> float | None:
        """The first number of a decimal string; None where absent or damaged."""
        try:
            number = float(self.values[tag].strip(b" \0").split(b"\\")[0])
        except (KeyError, ValueError):
            return None
        return number if math.isfinite(number) else None

    def integer(self, tag: int) -> int | None:
        """Value of an integer string; None where absent, damaged or beyond the 32 bits of PS3.5 table 6.2-1."""
        number = self.number(tag)
        return None if number is None or abs(number) >= 2**31 else int(number)

    def short(self, tag: int) -> int:
        """Value of an unsigned 16-bit element; 0 where absent."""
        raw = self.values.get(tag, b"")
        big = self.transfer_syntax_uid == EXPLICIT_BIG
        return int.from_bytes(raw[:2], "big" if big else "little") if len(raw) >= 2 else 0

    def in_words(self, tag: int) -> str:
        """Value of any element that is no sequence, as text by its dictionary VR; several joined by a backslash."""
        from pydicom.datadict import dictionary_VR

        code = _NUMBER_FORMATS.get(dictionary_VR(tag)[:2])
        if code is None:
            return self.text(tag)
        raw = self.values.get(tag, b"")
        order = ">" if self.transfer_syntax_uid == EXPLICIT_BIG else "<"
        count = len(raw) // struct.calcsize(code)
        return "\\".join(map(str, struct.unpack_from(f"{order}{count}{code}", raw)))

    def double(self, tag: int) -> float | None:
        """Value of a 64-bit float element (FD); None where absent or damaged."""
        raw = self.values.get(tag, b"")
        if len(raw) != 8:
            return None
        number = float(struct.unpack(">d" if self.transfer_syntax_uid == EXPLICIT_BIG else "<d", raw)[0])
        return number if math.isfinite(number) else None


def read_elements(stream: BinaryIO, size_bytes: int, wanted: frozenset[int]) -> Elements:
    """Read the wanted top-level elements of a DICOM file, stopping at the pixel data.

    Args:
        stream: The file, at its start.
        size_bytes: Length of the file.
        wanted: Tags as 32-bit numbers, group first.

    Raises:
        NotDicomError: The file does not start like DICOM.
        PipelineError: `damaged-header` where the header breaks off, nests too deep or is over-long.
    """
    window = _Window(stream, size_bytes)
    elements = Elements()
    start = _read_meta(window, elements, wanted)
    if elements.transfer_syntax_uid == DEFLATED:
        _read_deflated(_inflated(stream, start), elements, wanted)
        return elements
    big = elements.transfer_syntax_uid == EXPLICIT_BIG
    implicit = elements.transfer_syntax_uid == IMPLICIT_LITTLE
    if window.at(start + 4, 2) in _VRS:  # some writers declare implicit and write explicit
        implicit = False
    elif not big and not window.at(start + 4, 2).isalpha():
        implicit = True
    _read_dataset(_Walker(window, implicit=implicit, big=big), start, elements, wanted)
    return elements


def inflate(stream: BinaryIO) -> Inflated:
    """The data set of a deflated file, without the file meta information before it.

    Raises:
        NotDicomError: See `read_elements`.
        PipelineError: See `read_elements`.
    """
    size_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return _inflated(stream, _read_meta(_Window(stream, size_bytes), Elements(), frozenset()))


def _inflated(stream: BinaryIO, start: int) -> Inflated:
    stream.seek(start)
    return Inflated(stream.read())


def _read_deflated(inflated: Inflated, elements: Elements, wanted: frozenset[int]) -> None:
    try:
        head = inflated.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise _damaged(str(error.strerror)) from None
    walker = _Walker(_Window(io.BytesIO(head), len(head)), implicit=False, big=False)
    _read_dataset(walker, 0, elements, wanted)
    if elements.pixel_bytes is not None and not inflated.is_exhausted:
        elements.pixel_bytes_present = max(elements.pixel_bytes, elements.pixel_bytes_present)


class _Window:
    """The start of a file, read further in growing chunks as it is asked for."""

    def __init__(self, stream: BinaryIO, size_bytes: int) -> None:
        self._stream = stream
        self.size_bytes = size_bytes
        self.data = stream.read(CHUNK_BYTES)

    def need(self, end: int) -> None:
        """Hold the bytes up to `end` in `data`."""
        if end <= len(self.data):
            return
        if end > self.size_bytes:
            raise _damaged(f"the header ends at byte {self.size_bytes}, {end} were announced")
        if end > MAX_HEADER_BYTES:
            raise _damaged(f"the header is longer than {MAX_HEADER_BYTES >> 20} MiB")
        missing = max(end, min(2 * len(self.data), self.size_bytes)) - len(self.data)
        self.data += self._stream.read(missing)
        if end > len(self.data):
            raise _damaged(f"the file gave {len(self.data)} bytes, {end} were announced")

    def at(self, start: int, count: int) -> bytes:
        """Bytes at a place, fewer at the end of the file."""
        return self.data[start : start + count]


class _Walker:
    """Steps from element to element under one encoding."""

    def __init__(self, window: _Window, *, implicit: bool, big: bool) -> None:
        self.window = window
        self.implicit = implicit
        self.is_plain = not implicit and not big
        order = ">" if big else "<"
        self._tag: Callable[[bytes, int], tuple[int, int]] = struct.Struct(order + "HH").unpack_from
        self._long: Callable[[bytes, int], tuple[int]] = struct.Struct(order + "L").unpack_from
        self._short: Callable[[bytes, int], tuple[int]] = struct.Struct(order + "H").unpack_from

    def element(self, offset: int) -> tuple[int, int, int]:
        """Tag, value offset and value length of the element at `offset`."""
        window = self.window
        window.need(offset + 8)
        data = window.data
        group, number = self._tag(data, offset)
        if self.implicit or group == 0xFFFE:
            return group << 16 | number, offset + 8, self._long(data, offset + 4)[0]
        vr = data[offset + 4 : offset + 6]
        if vr in _SHORT_VRS:
            return group << 16 | number, offset + 8, self._short(data, offset + 6)[0]
        if vr not in _LONG_VRS:
            raise _damaged(f"{vr!r} is no value representation, element ({group:04x},{number:04x}) at byte {offset}")
        window.need(offset + 12)
        return group << 16 | number, offset + 12, self._long(window.data, offset + 8)[0]

    def skip_undefined(self, offset: int, depth: int) -> int:
        """End of a sequence of undefined length whose first item starts at `offset`."""
        if depth > MAX_DEPTH:
            raise _damaged(f"sequences nest deeper than {MAX_DEPTH}")
        while True:
            tag, start, length = self.element(offset)
            if tag == _SEQUENCE_END:
                return start
            if tag != _ITEM:
                raise _damaged(f"element ({tag >> 16:04x},{tag & 0xFFFF:04x}) stands where a sequence item belongs")
            offset = start + length if length != _UNDEFINED else self._skip_item(start, depth)

    def _skip_item(self, offset: int, depth: int) -> int:
        while True:
            tag, start, length = self.element(offset)
            if tag == _ITEM_END:
                return start
            offset = start + length if length != _UNDEFINED else self.skip_undefined(start, depth + 1)


def _read_meta(window: _Window, elements: Elements, wanted: frozenset[int]) -> int:
    """Read file meta information (always explicit little endian); offset of the data set behind it."""
    start = 132 if window.at(128, 4) == b"DICM" else 0
    group = window.at(start, 2)
    if start == 0 and not _starts_like_dataset(window):
        raise NotDicomError
    walker = _Walker(window, implicit=False, big=False)
    while group == b"\x02\0":
        tag, value, length = walker.element(start)
        window.need(value + length)
        if tag == 0x00020010:
            elements.transfer_syntax_uid = window.data[value : value + length].strip(b" \0").decode("ascii", "replace")
        elif tag in wanted:
            elements.values[tag] = window.data[value : value + length]
        start = value + length
        window.need(min(start + 8, window.size_bytes))
        group = window.at(start, 2)
    return start


def _starts_like_dataset(window: _Window) -> bool:
    """Whether a file without preamble starts with an element of group 0002 or 0008, the lowest that occur."""
    head = window.at(0, 8)
    if len(head) < 8 or head[:2] not in (b"\x02\0", b"\x08\0"):
        return False
    element = int.from_bytes(head[2:4], "little")
    explicit = head[4:6] in _VRS
    return element <= 0x0070 and (explicit or int.from_bytes(head[4:8], "little") <= 1024)


def _read_dataset(walker: _Walker, offset: int, elements: Elements, wanted: frozenset[int]) -> None:
    window, values, size = walker.window, elements.values, walker.window.size_bytes
    last = max(wanted)
    while offset + 8 <= size:
        if walker.is_plain:
            offset = _read_plain(window.data, offset, values, wanted)
        tag, start, length = walker.element(offset)
        if tag in _PIXEL_TAGS:
            elements.pixel_bytes = -1 if length == _UNDEFINED else length
            elements.pixel_bytes_present = max(0, size - start)
            elements.pixel_tag, elements.pixel_offset = tag, start
            return
        if length == _UNDEFINED:
            if tag in wanted:
                values[tag] = b""
            offset = walker.skip_undefined(start, 0)
            continue
        offset = start + length
        if tag in wanted:
            window.need(offset)
            values[tag] = window.data[start:offset]
        elif offset > size and tag > last:
            return
        elif offset > size:
            raise _damaged(f"the header ends at byte {size}, {offset} were announced")
        if offset > len(window.data):
            window.need(min(offset, size))


def _read_plain(data: bytes, offset: int, values: dict[int, bytes], wanted: frozenset[int]) -> int:
    """Take elements of explicit VR and length, little endian, that lie in `data`; offset of the first that differs.

    Most elements of most files are of this kind, and a call for each of them would take most of the time.
    """
    size = len(data)
    while offset + 12 <= size:
        group, number, vr, length = _HEAD(data, offset)
        start = offset + 8
        if vr in _LONG_VRS:
            (length,) = _LENGTH(data, start)
            start += 4
        end = start + length
        if end + 8 > size or vr not in _VRS or group in (_PIXEL_GROUP, _ITEM_GROUP):
            break
        tag = group << 16 | number
        if tag in wanted:
            values[tag] = data[start:end]
        offset = end
    return offset


def _decode(raw: bytes, charset: bytes) -> str:
    from pydicom.charset import convert_encodings, decode_bytes

    names = [name.strip() for name in charset.decode("ascii", "replace").split("\\")]
    try:
        return str(decode_bytes(raw, convert_encodings(names or [""]), set()))
    except (LookupError, UnicodeError, ValueError):
        return raw.decode("latin-1")


def _damaged(message: str) -> PipelineError:
    return PipelineError(Code.DAMAGED_HEADER, message, "send the instance again from its source")
