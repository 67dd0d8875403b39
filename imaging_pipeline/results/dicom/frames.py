"""Frames of a binary segmentation: one bit a pixel, and what each of them is, encoded as the file has them.

An object of pydicom for each attribute of thousands of frames takes most of the time and memory of a large SEG. Frames
of one plane say the same of it, and frames of one segment the same of that: each is encoded once. Pixels go to a
temporary file, so that memory does not grow with the number of frames.
"""

import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_dataset
from pydicom.tag import Tag

_PER_FRAME = Tag(0x52009230)
_PIXELS = Tag(0x7FE00010)
_ITEM = b"\xfe\xff\x00\xe0"


def labels_by_plane(planes: NDArray[Any]) -> NDArray[np.bool_]:
    """(plane, number): which numbers occur on which plane."""
    n_numbers = int(np.iinfo(planes.dtype).max) + 1
    return np.array([np.bincount(plane.ravel(), minlength=n_numbers) > 0 for plane in planes])


def put_frames(
    seg: FileDataset, planes: NDArray[Any], found: NDArray[np.bool_], labels: Sequence[int], parts: Sequence[Dataset]
) -> None:
    """Give a binary segmentation its frames, those of the first segment first; its segments are numbered from 1.

    Args:
        seg: Explicit VR Little Endian, complete but for its frames.
        planes: (slice, row, column) of label numbers.
        found: What `labels_by_plane` says of them.
        labels: Label numbers in the order of the segments.
        parts: For each plane the functional groups that say where it is and what it was made of.
    """
    frames = [(rank, label, plane) for rank, label in enumerate(labels, 1) for plane in _where(found[:, label])]
    kept = {plane: rank for rank, plane in enumerate(sorted({plane for *_, plane in frames}), start=1)}
    seg.SharedFunctionalGroupsSequence[0].pop("SegmentIdentificationSequence", None)
    correct_ambiguous_vr(seg, is_little_endian=True)
    of_plane = {plane: _split(parts[plane]) for plane in kept}
    of_segment = {rank: _encoded(_identification(rank)) for rank in dict.fromkeys(rank for rank, *_ in frames)}
    index = _encoded(_index())[:-8]  # the two numbers are its end
    items = [
        (before, index + struct.pack("<2L", rank, kept[plane]), behind, of_segment[rank])
        for rank, _, plane in frames
        for before, behind in (of_plane[plane],)
    ]
    groups = b"".join(_item(b"".join(item)) for item in items)
    seg.NumberOfFrames = len(frames)
    seg[_PER_FRAME] = RawDataElement(_PER_FRAME, "SQ", len(groups), groups, 0, False, True)
    seg[_PIXELS] = DataElement(_PIXELS, "OB", _stored(_packed(planes[plane] == label for _, label, plane in frames)))
    charset = seg.get("SpecificCharacterSet")
    seg.set_original_encoding(False, True, convert_encodings(charset) if charset else default_encoding)


def _where(found: NDArray[np.bool_]) -> list[int]:
    return [int(number) for number in np.flatnonzero(found)]


def _packed(frames: Iterable[NDArray[np.bool_]]) -> Iterator[bytes]:
    """Bits of frames one behind the other, the first in the lowest bit (PS3.5 section 8.1.1); no gap between frames."""
    rest = np.empty(0, np.bool_)
    for frame in frames:
        bits = np.concatenate((rest, frame.ravel())) if rest.size else frame.ravel()
        n_whole = bits.size // 8 * 8
        yield np.packbits(bits[:n_whole], bitorder="little").tobytes()
        rest = bits[n_whole:]
    yield np.packbits(rest, bitorder="little").tobytes()


def _stored(pieces: Iterable[bytes]) -> Any:
    """A temporary file of an even number of bytes, at its start; it is gone with the object."""
    file = tempfile.TemporaryFile(prefix="imaging-pipeline-")  # noqa: SIM115 the data set keeps it
    for piece in pieces:
        file.write(piece)
    file.write(b"\0" * (file.tell() % 2))
    file.seek(0)
    return file


def _split(part: Dataset) -> tuple[bytes, bytes]:
    """A plane's groups before and behind Frame Content Sequence (0020,9111), in the order of tags."""
    return _encoded(part.group_dataset(0x0008)), _encoded(part.group_dataset(0x0020))


def _identification(rank: int) -> Dataset:
    segment, group = Dataset(), Dataset()
    segment.ReferencedSegmentNumber = rank
    group.SegmentIdentificationSequence = [segment]
    return group


def _index() -> Dataset:
    content, group = Dataset(), Dataset()
    content.DimensionIndexValues = [0, 0]
    group.FrameContentSequence = [content]
    return group


def _encoded(dataset: Dataset) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    return stream.getvalue()


def _item(content: bytes) -> bytes:
    return _ITEM + struct.pack("<L", len(content)) + content
