"""Three planes of a volume with the outlines of its mask, as a small PNG for people who look at many results.

Planes are those of the volume's own axes, which are the closest to axial, coronal and sagittal. They are shown as
radiologists see them: the patient's left on the right side of the picture, anterior to the left in the sagittal plane.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from imaging_pipeline.results.colours import colours_of
from imaging_pipeline.results.planes import AXIAL, CORONAL, SAGITTAL, Field, Plane, aim
from imaging_pipeline.results.window import Window, window_of
from imaging_pipeline.segment.labels import Label
from imaging_pipeline.stores import Store
from imaging_pipeline.volume import Volume

HEIGHT = 288
"""Pixels of the tallest plane."""

_LARGEST_WIDTH = 1200
_KEPT_VOXELS = 2**24
_GAP, _CAPTION = 6, 22
_GREYS = 128
"""Grey levels: half as many as a screen shows halve the file."""

_BACKGROUND, _TEXT, _HALO = (16, 16, 16), (235, 235, 235), (0, 0, 0)
_BAR_MM = (200, 100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """A volume's values, thinned to at most 17 million voxels: what a preview keeps in memory while others work.

    Attributes:
        array: Every nth value along each axis, in the volume's own order.
        strides: n along I, J, K.
        modality: (0008,0060).
        grid: Shape and affine of the volume.
    """

    array: NDArray[Any]
    strides: tuple[int, int, int]
    modality: str
    grid: Volume


def backdrop_of(volume: Volume, modality: str) -> Backdrop:
    """Copy what a preview needs of a volume; axes of the finest voxels are thinned first."""
    strides, spacing = [1, 1, 1], volume.spacing_mm
    while np.prod([-(-size // stride) for size, stride in zip(volume.shape, strides, strict=True)]) > _KEPT_VOXELS:
        strides[int(np.argmin([length * stride for length, stride in zip(spacing, strides, strict=True)]))] += 1
    i, j, k = strides
    values = volume.array[::i, ::j, ::k].copy(order="K")
    return Backdrop(array=values, strides=(i, j, k), modality=modality, grid=volume.hollow)


def write_preview(out: Store, path: str, backdrop: Backdrop, mask: Volume | None, labels: Sequence[Label]) -> str:
    """Write the picture atomically; SHA-256 of the file.

    Raises:
        PipelineError: `write-failed`.
    """
    return out.publish(path, preview(backdrop, mask, colours_of(labels)))


def preview(backdrop: Backdrop, mask: Volume | None, colours: dict[int, str]) -> bytes:
    """The PNG, the same bytes every time.

    Args:
        backdrop: Values of the image.
        mask: Labels on the same grid; None shows planes through the middle without outlines.
        colours: Label number to #RRGGBB.
    """
    field = aim(backdrop.grid, mask)
    scale = _scale(field)
    window = window_of(backdrop.modality, backdrop.array)
    panels = [_panel(plane, field, backdrop, mask, window, scale, colours) for plane in (AXIAL, CORONAL, SAGITTAL)]
    width = sum(panel.width for panel in panels) + _GAP * (len(panels) - 1)
    height = max(panel.height for panel in panels)
    sheet = Image.new("RGB", (width, height + _CAPTION), _BACKGROUND)
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, (height - panel.height) // 2))
        left += panel.width + _GAP
    _caption(sheet, field, window, scale, height)
    return _png(sheet, colours.values())


def _scale(field: Field) -> float:
    """Pixels a mm, the same in all three planes."""
    x, y, z = field.extent_mm
    return min(HEIGHT / max(y, z), (_LARGEST_WIDTH - 2 * _GAP) / (2 * x + y))


def _panel(
    plane: Plane,
    field: Field,
    backdrop: Backdrop,
    mask: Volume | None,
    window: Window,
    scale: float,
    colours: dict[int, str],
) -> Image.Image:
    width, height = (max(round(field.extent_mm[axis] * scale), 8) for axis in (plane.across, plane.down))
    size = width, height
    picture = _values(plane, field, backdrop, window).resize(
        size, Image.Resampling.BICUBIC, _box(plane, field, backdrop)
    )
    picture = picture.convert("RGB")
    draw = ImageDraw.Draw(picture)
    if mask is not None:
        _outline(draw, _shown(mask.array[field.cut(plane)]), size, colours)
    left, right, top, bottom = field.letters(plane)
    middle = size[0] // 2, size[1] // 2
    for text, place, anchor in (
        (left, (4, middle[1]), "lm"),
        (right, (size[0] - 4, middle[1]), "rm"),
        (top, (middle[0], 3), "mt"),
        (bottom, (middle[0], size[1] - 3), "mb"),
    ):
        draw.text(place, text, _TEXT, _font(14), anchor, stroke_width=2, stroke_fill=_HALO)
    return picture


def _values(plane: Plane, field: Field, backdrop: Backdrop, window: Window) -> Image.Image:
    index: list[slice | int] = [slice(None)] * 3
    index[plane.through] = field.centre[plane.through] // backdrop.strides[plane.through]
    return Image.fromarray(_shown(window.greys(backdrop.array[tuple(index)])))


def _box(plane: Plane, field: Field, backdrop: Backdrop) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the field in `_values`; a value stands for the place of its own voxel."""
    starts, ends = [], []
    for axis in (plane.across, plane.down):
        n_values, stride = backdrop.array.shape[axis], backdrop.strides[axis]
        first, last = (
            min((edge - 0.5) / stride + 0.5, n_values)
            for edge in (field.start[axis], field.start[axis] + field.size[axis])
        )
        starts.append(n_values - last)
        ends.append(n_values - first)
    return starts[0], starts[1], ends[0], ends[1]


def _shown(values: NDArray[Any]) -> NDArray[Any]:
    """A plane (across, down) along RAS+ as rows of a picture: right or anterior comes first, superior on top."""
    return np.ascontiguousarray(values[::-1, ::-1].T)


def _outline(draw: ImageDraw.ImageDraw, labels: NDArray[Any], size: tuple[int, ...], colours: dict[int, str]) -> None:
    """Outlines of all labels on black ones that are wider: they are seen on bone and on air."""
    from scipy.ndimage import find_objects

    from imaging_pipeline.results.dicom.contours import rings  # contourpy and scipy take a while to load

    x_factor, y_factor = size[0] / labels.shape[1], size[1] / labels.shape[0]
    found = []
    for number, place in enumerate(find_objects(labels), start=1):
        for ring in () if place is None else rings(labels[place] == number):
            offset = place[1].start + 0.5, place[0].start + 0.5
            points = [((x + offset[0]) * x_factor, (y + offset[1]) * y_factor) for x, y in ring]
            found.append(([*points, points[0]], colours.get(number, "#FFFFFF")))
    for points, _ in found:
        draw.line(points, _HALO, 4)
    for points, colour in found:
        draw.line(points, colour, 2)


def _caption(sheet: Image.Image, field: Field, window: Window, scale: float, top: int) -> None:
    """Scale bar, window and which slices are shown, in the voxel numbers of the NIfTI."""
    draw, line = ImageDraw.Draw(sheet), top + _CAPTION // 2
    length = next((mm for mm in _BAR_MM if mm * scale <= sheet.width / 6), _BAR_MM[-1])
    end = 4 + round(length * scale)
    draw.line([(4, line), (end, line)], _TEXT, 2)
    for x in (4, end):
        draw.line([(x, line - 4), (x, line + 4)], _TEXT, 2)
    draw.text((end + 6, line), f"{length} mm", _TEXT, _font(12), "lm")
    text = f"{window.words}   voxel {', '.join(map(str, field.centre))}"
    if draw.textlength(text, _font(12)) < sheet.width - end - 80:
        draw.text((sheet.width - 4, line), text, _TEXT, _font(12), "rm")


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _png(sheet: Image.Image, colours: Iterable[str]) -> bytes:
    """With a palette of greys and the colours of labels: a third of the size."""
    greys = [round(level * 255 / (_GREYS - 1)) for level in range(_GREYS)]
    entries = [channel for grey in greys for channel in (grey,) * 3]
    entries += [channel for colour in sorted(set(colours))[: 256 - _GREYS] for channel in ImageColor.getrgb(colour)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(entries + entries[:3] * (256 - len(entries) // 3))
    stream = BytesIO()
    sheet.quantize(palette=palette, dither=Image.Dither.NONE).save(stream, "PNG")
    return stream.getvalue()
