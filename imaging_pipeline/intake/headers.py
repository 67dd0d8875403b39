"""The header of one file: a plane for each image in it, or the reason why there is none."""

from collections.abc import Collection, Iterator

from pydicom.datadict import tag_for_keyword

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.elements import Elements, NotDicomError, read_elements
from imaging_pipeline.intake.frames import has_functional_groups, read_frames
from imaging_pipeline.records import FileRef, HeaderRow, SkippedFile, SliceHeader
from imaging_pipeline.sources import ARCHIVE_DAMAGE, MEMBER, Opener, Source, is_archive, members, open_source

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"

_WANTED = frozenset(
    (
        0x00020002,  # Media Storage SOP Class UID, for de-identified instances without (0008,0016)
        0x00020003,  # Media Storage SOP Instance UID, likewise
        0x00080005,  # Specific Character Set
        0x00080008,  # Image Type
        0x00080016,  # SOP Class UID
        0x00080018,  # SOP Instance UID
        0x00080032,  # Acquisition Time
        0x00080060,  # Modality
        0x0008103E,  # Series Description
        0x00100020,  # Patient ID
        0x00180050,  # Slice Thickness
        0x00180081,  # Echo Time
        0x00180082,  # Inversion Time
        0x00181060,  # Trigger Time
        0x00189087,  # Diffusion b-value
        0x0020000D,  # Study Instance UID
        0x0020000E,  # Series Instance UID
        0x00200011,  # Series Number
        0x00200012,  # Acquisition Number
        0x00200013,  # Instance Number
        0x00200032,  # Image Position (Patient)
        0x00200037,  # Image Orientation (Patient)
        0x00200052,  # Frame of Reference UID
        0x00200100,  # Temporal Position Identifier
        0x00280002,  # Samples per Pixel
        0x00280004,  # Photometric Interpretation
        0x00280008,  # Number of Frames
        0x00280010,  # Rows
        0x00280011,  # Columns
        0x00280030,  # Pixel Spacing
        0x00280100,  # Bits Allocated
        0x00281052,  # Rescale Intercept
        0x00282110,  # Lossy Image Compression
        0x00283000,  # Modality LUT Sequence
        0x00281053,  # Rescale Slope
        0x52009229,  # Shared Functional Groups Sequence
    )
)


def read_file(file: FileRef, keywords: Collection[str] = (), opener: Opener = open_source) -> Iterator[HeaderRow]:
    """Rows of one file: of every member where it is an archive (archives within archives are not opened)."""
    if not is_archive(file.path) or MEMBER in file.path:
        yield from read_header(file, keywords, opener)
        return
    try:
        inner = [
            FileRef(path=path, size_bytes=size_bytes, modified_at=file.modified_at)
            for path, size_bytes in members(file.path, opener)
        ]
    except PipelineError as error:
        yield _skipped(file, error.code, error.message)
        return
    except OSError as error:
        yield _skipped(file, Code.UNREADABLE_FILE, error.strerror or type(error).__name__)
        return
    for member in inner:
        yield from read_header(member, keywords, opener)


def read_header(file: FileRef, keywords: Collection[str] = (), source: Source = open_source) -> Iterator[HeaderRow]:
    """Read the attributes that intake needs of one file, never its pixels.

    A file of several frames gives a row for each. Whatever is wrong with the file is in the row: nothing is raised.

    Args:
        file: The file.
        keywords: DICOM keywords of further attributes that go into `SliceHeader.attributes`.
        source: Opens it.
    """
    if file.size_bytes == 0:
        yield _skipped(file, Code.EMPTY_FILE, "zero bytes")
        return
    try:
        with source(file.path) as stream:
            tags = {keyword: tag_for_keyword(keyword) or 0 for keyword in keywords}
            wanted = _WANTED.union(tags.values())
            elements = read_elements(stream, file.size_bytes, wanted)
            attributes = {keyword: elements.in_words(tag) for keyword, tag in tags.items() if tag in elements.values}
            planes = list(_planes(file, elements, attributes, source))
    except NotDicomError:
        yield _skipped(file, Code.NOT_DICOM, "no DICOM preamble, and the first bytes are no data element")
    except PipelineError as error:
        yield _skipped(file, error.code, error.message)
    except OSError as error:
        yield _skipped(file, Code.UNREADABLE_FILE, error.strerror or type(error).__name__)
    except ARCHIVE_DAMAGE as error:
        if MEMBER not in file.path:
            raise
        yield _skipped(file, Code.UNREADABLE_FILE, f"the archive cannot be unpacked: {error}")
    else:
        yield from planes


def _planes(file: FileRef, elements: Elements, attributes: dict[str, str], source: Source) -> Iterator[HeaderRow]:
    if MEDIA_DIRECTORY in (elements.text(0x00020002), elements.text(0x00080016)):
        yield _skipped(file, Code.DICOMDIR, "a media directory; the instances are found without it")
        return
    if not elements.text(0x00080016) and not elements.text(0x00020002) and elements.pixel_bytes is None:
        yield _skipped(file, Code.DAMAGED_HEADER, "neither a SOP Class UID (0008,0016) nor pixel data")
        return
    plane = _plane(file, elements, attributes)
    if has_functional_groups(elements):
        for frame in read_frames(source(file.path), plane):
            yield HeaderRow(plane=frame)
    else:
        yield HeaderRow(plane=plane)


def _plane(file: FileRef, elements: Elements, attributes: dict[str, str]) -> SliceHeader:
    has_pixels = elements.pixel_bytes is not None
    problem = _truncation(elements)
    geometry = {name: elements.floats(tag, count) for tag, (name, count) in _GEOMETRY.items()}
    return SliceHeader(
        path=file.path,
        size_bytes=file.size_bytes,
        modified_at=file.modified_at,
        frame=None,
        n_frames=elements.integer(0x00280008) or 1,
        sop_instance_uid=elements.text(0x00080018) or elements.text(0x00020003),
        sop_class_uid=elements.text(0x00080016) or elements.text(0x00020002),
        transfer_syntax_uid=elements.transfer_syntax_uid,
        study_uid=elements.text(0x0020000D),
        series_uid=elements.text(0x0020000E),
        patient_id=elements.text(0x00100020),
        modality=elements.text(0x00080060),
        image_type=elements.texts(0x00080008),
        series_description=elements.text(0x0008103E),
        series_number=elements.integer(0x00200011),
        instance_number=elements.integer(0x00200013),
        frame_of_reference_uid=elements.text(0x00200052),
        rows=elements.short(0x00280010) if has_pixels else 0,
        columns=elements.short(0x00280011) if has_pixels else 0,
        samples_per_pixel=elements.short(0x00280002) or 1,
        bits_allocated=elements.short(0x00280100),
        photometric=elements.text(0x00280004),
        position_mm=geometry["position_mm"],
        orientation=geometry["orientation"],
        pixel_spacing_mm=geometry["pixel_spacing_mm"],
        slice_thickness_mm=elements.number(0x00180050),
        slope=elements.number(0x00281053),
        intercept=elements.number(0x00281052),
        acquisition_number=elements.integer(0x00200012),
        echo_time_ms=elements.number(0x00180081),
        inversion_time_ms=elements.number(0x00180082),
        trigger_time_ms=elements.number(0x00181060),
        temporal_position=elements.integer(0x00200100),
        b_value=elements.double(0x00189087),
        acquisition_time=elements.text(0x00080032),
        is_lossy=elements.text(0x00282110) == "01",
        has_modality_lut=0x00283000 in elements.values,
        overlong=tuple(name for tag, (name, _) in _GEOMETRY.items() if elements.is_overlong(tag)),
        damaged=tuple(
            name
            for tag, (name, count) in _GEOMETRY.items()
            if geometry[name] is None and elements.is_no_number(tag, count)
        ),
        attributes=attributes,
        problem_code=Code.TRUNCATED_PIXELS if problem else None,
        problem=problem,
    )


_GEOMETRY = {
    0x00200032: ("position_mm", 3),
    0x00200037: ("orientation", 6),
    0x00280030: ("pixel_spacing_mm", 2),
}


def _truncation(elements: Elements) -> str:
    """Declared against present pixel bytes: a file that was cut off in transfer."""
    declared, present = elements.pixel_bytes, elements.pixel_bytes_present
    if declared is None or declared == -1:
        return ""
    rows, columns, bits = (elements.short(tag) for tag in (0x00280010, 0x00280011, 0x00280100))
    samples, n_frames = elements.short(0x00280002) or 1, elements.integer(0x00280008) or 1
    needed = max(declared, rows * columns * samples * n_frames * bits // 8)
    return f"pixel data of {needed} bytes announced, {min(declared, present)} in the file" if needed > present else ""


def _skipped(file: FileRef, code: Code, message: str) -> HeaderRow:
    return HeaderRow(skipped=SkippedFile(path=file.path, code=code, message=message))
