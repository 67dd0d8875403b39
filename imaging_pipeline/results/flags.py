"""Why somebody should look at a series that is done: rules over its measurements and its geometry."""

from collections.abc import Iterator, Sequence

from imaging_pipeline.errors import FlagCode
from imaging_pipeline.records import Flag, GeometryVerdict, SeriesResult
from imaging_pipeline.results.measure import Measurement
from imaging_pipeline.results.sides import pairs
from imaging_pipeline.segment.labels import Label
from imaging_pipeline.settings import QcSettings

_NAMED = 4
"""Labels that a message names; the flag has them all."""


def flag_geometry(result: SeriesResult) -> Iterator[Flag]:
    """A volume that was repaired."""
    if result.geometry_verdict is not GeometryVerdict.OK:
        found = "; ".join(f"{item.code}: {item.message}" for item in result.findings) or "no findings"
        message = f"geometry {result.geometry_verdict}: {found}"
        yield Flag(code=FlagCode.GEOMETRY, message=message, hint="see that the volume is whole and where it should be")


def flag_mask(measurements: Sequence[Measurement], labels: Sequence[Label], qc: QcSettings) -> Iterator[Flag]:
    """What is unusual about a mask.

    Args:
        measurements: Of every label of the model, found or not.
        labels: Structures that the model names, with their plausible volumes.
        qc: Where a rule begins to speak.
    """
    found = [item for item in measurements if item.n_voxels]
    if not found:
        message = f"none of {len(measurements)} labels has a voxel"
        hint = "see whether the series shows what the model looks for; selection rules keep others away"
        yield Flag(code=FlagCode.EMPTY_MASK, message=message, hint=hint)
        return
    yield from _missing(measurements, qc)
    yield from _cut_off(found, qc)
    yield from _implausible(found, labels)
    yield from _asymmetric(found, qc)
    yield from _fragmented(found, qc)
    yield from _disputed(found, qc)


def _missing(measurements: Sequence[Measurement], qc: QcSettings) -> Iterator[Flag]:
    names = [item.name for item in measurements if not item.n_voxels]
    if qc.missing_labels and names:
        message = f"{len(names)} of {len(measurements)} labels have no voxel: {_listed(names)}"
        hint = "see whether the field of view holds them; qc.missing_labels=false where a model seldom finds all"
        yield _flag(FlagCode.LABEL_MISSING, message, hint, names)


def _cut_off(found: Sequence[Measurement], qc: QcSettings) -> Iterator[Flag]:
    touching = [item for item in found if item.borders]
    if qc.cut_off and touching:
        places = [f"{item.name} ({item.borders})" for item in touching]
        message = f"{len(touching)} of {len(found)} labels touch the volume's border: {_listed(places)}"
        hint = "their volumes may be those of a part: see whether the field of view cuts them off"
        yield _flag(FlagCode.CUT_OFF, message, hint, [item.name for item in touching])


def _implausible(found: Sequence[Measurement], labels: Sequence[Label]) -> Iterator[Flag]:
    ranges = {label.index: label.plausible_ml for label in labels if label.plausible_ml is not None}
    outside = [
        (item, ranges[item.label])
        for item in found
        if item.label in ranges and not ranges[item.label][0] <= item.volume_ml <= ranges[item.label][1]
    ]
    if outside:
        places = [
            f"{item.name} {item.volume_ml:.2f} ml, plausible {low:g} to {high:g}" for item, (low, high) in outside
        ]
        hint = "look at the mask; the model's card says where the plausible range comes from"
        yield _flag(FlagCode.IMPLAUSIBLE_VOLUME, _listed(places), hint, [item.name for item, _ in outside])


def _asymmetric(found: Sequence[Measurement], qc: QcSettings) -> Iterator[Flag]:
    uneven = [
        (name, left, right)
        for name, left, right in pairs((item.name, item) for item in found)
        if abs(left.volume_ml - right.volume_ml) > qc.asymmetry * (left.volume_ml + right.volume_ml) / 2
    ]
    if uneven:
        places = [
            f"{name} left {left.volume_ml:.2f} ml, right {right.volume_ml:.2f} ml" for name, left, right in uneven
        ]
        message = f"more than {qc.asymmetry:.0%} of their mean apart: {_listed(places)}"
        names = [item.name for _, *both in uneven for item in both]
        yield _flag(FlagCode.ASYMMETRY, message, "see whether both sides are there and labelled as a whole", names)


def _fragmented(found: Sequence[Measurement], qc: QcSettings) -> Iterator[Flag]:
    broken = [item for item in found if item.n_parts > qc.max_parts or (item.largest_share or 0) < qc.min_largest_share]
    if broken:
        places = [f"{item.name} {item.n_parts} parts, {item.largest_share:.0%} in the largest" for item in broken]
        message = f"{len(broken)} of {len(found)} labels are in pieces: {_listed(places)}"
        hint = "look for specks elsewhere; a bundle may keep the largest part by its own postprocessing"
        yield _flag(FlagCode.FRAGMENTED, message, hint, [item.name for item in broken])


def _disputed(found: Sequence[Measurement], qc: QcSettings) -> Iterator[Flag]:
    low = sorted((item.agreement, item.name) for item in found if _at_most(item.agreement) < qc.min_agreement)
    if low:
        places = [f"{name} {agreement:.2f}" for agreement, name in low]
        message = (
            f"networks or mirror images agree on {len(low)} of {len(found)} labels by a Dice below "
            f"{qc.min_agreement:g}: {_listed(places)}"
        )
        hint = "their outlines are the mean of different ones: go through them slice by slice, and see whether the "
        hint += "image is as those that the model was made for (contrast, artefacts, unusual anatomy)"
        yield _flag(FlagCode.LOW_MEMBER_AGREEMENT, message, hint, [name for _, name in low])


def _at_most(agreement: float | None) -> float:
    return 1.0 if agreement is None else agreement


def _flag(code: FlagCode, message: str, hint: str, names: Sequence[str]) -> Flag:
    return Flag(code=code, message=message, hint=hint, labels=tuple(names))


def _listed(texts: Sequence[str]) -> str:
    rest = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + f", and {rest} more" * (rest > 0)
