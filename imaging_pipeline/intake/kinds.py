"""What kind of thing a series is, before its geometry is looked at: an image of a volume, or something else."""

from collections.abc import Sequence

from imaging_pipeline.errors import Code
from imaging_pipeline.intake.stacks import Judgement
from imaging_pipeline.records import SliceHeader
from imaging_pipeline.settings import GeometrySettings

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_NO_IMAGES = frozenset(("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "DOC", "AU", "ECG"))
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_NOTHING_TO_DO = "nothing to do: such objects are no input of a segmentation"


def refuse_kind(planes: Sequence[SliceHeader], settings: GeometrySettings) -> Judgement | None:
    """The reason why planes are no image of a volume, whatever their geometry; None for what may be one."""
    first = planes[0]
    for applies, code, message, hint in (
        (
            all(plane.rows == 0 or plane.columns == 0 for plane in planes) or first.modality in _NO_IMAGES,
            Code.NOT_AN_IMAGE,
            f"modality {first.modality or 'unknown'}: {len(planes)} objects that hold no image of a volume",
            _NOTHING_TO_DO,
        ),
        (
            first.n_frames > 1 and first.frame is None,
            Code.MULTI_FRAME,
            f"{first.n_frames} frames without functional groups: nothing says where each of them lies",
            "send the series as single frames, or as an Enhanced instance",
        ),
        (
            all("LOCALIZER" in plane.image_type for plane in planes),
            Code.LOCALIZER,
            f"a localizer of {len(planes)} planes, Image Type {'/'.join(first.image_type)}",
            _NOTHING_TO_DO,
        ),
        (
            all(is_colour(plane) for plane in planes),
            Code.NOT_MONOCHROME,
            f"{first.samples_per_pixel} samples a pixel, Photometric Interpretation {first.photometric}",
            "send the series that this one was rendered from",
        ),
        (
            all(plane.sop_class_uid.startswith(_SECONDARY_CAPTURE) and plane.position_mm is None for plane in planes),
            Code.SECONDARY_CAPTURE,
            f"{len(planes)} secondary captures without a place in the patient",
            "send the series that they were made from",
        ),
        (
            any("MOSAIC" in plane.image_type for plane in planes),
            Code.MOSAIC,
            f"{len(planes)} mosaics of {first.columns} x {first.rows} pixels, each with all slices of a volume",
            "send the series as Enhanced MR, or export it from the scanner without mosaics",
        ),
        (
            first.modality == "CT" and all(plane.transfer_syntax_uid == _JPEG_BASELINE for plane in planes),
            Code.PRECISION_LOSS,
            f"{len(planes)} planes in 8-bit JPEG: Hounsfield units need 12 bits",
            "send the series in a lossless transfer syntax",
        ),
        (
            settings.derived == "reject" and all(plane.image_type[:1] == ("DERIVED",) for plane in planes),
            Code.DERIVED,
            f"{len(planes)} derived planes, Image Type {'/'.join(first.image_type)}",
            "set geometry.derived=accept, or send the original series",
        ),
    ):
        if applies:
            return Judgement(code=code, message=message, hint=hint)
    return None


def is_colour(plane: SliceHeader) -> bool:
    """Whether a plane's pixels are colours rather than measurements."""
    return plane.samples_per_pixel != 1 or plane.photometric not in ("", "MONOCHROME1", "MONOCHROME2")
