"""What configs/metadata.json of a MONAI bundle says of inputs, outputs and the model's habits."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.labels import Label

METADATA = Path("configs/metadata.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The part of a bundle's metadata that is used here.

    Attributes:
        version: The bundle's version.
        n_inputs: Image channels that the network takes.
        n_outputs: Channels that it gives; 0 where the metadata does not say.
        labels: Structures that the output channels stand for, background left out; empty where none are named.
        mirror_axes: Axes (0, 1, 2 of the model grid) about which test-time mirroring is allowed, from `mirror_axes`.
        air: What counts as air, which is background, from `air_is_background`: voxels at or below a number in the
            modality's units, or "clip" for what the bundle's intensity rule clips to its lower end; None: nothing.
        license: The licence that it names.
    """

    version: str
    n_inputs: int
    n_outputs: int
    labels: tuple[Label, ...]
    mirror_axes: tuple[int, ...]
    air: float | Literal["clip"] | None
    license: str


def read_metadata(path: Path) -> Metadata:
    """Read a bundle's metadata.

    Args:
        path: The bundle's folder.

    Raises:
        PipelineError: `model-invalid` for a file that is no JSON object, or whose entries are of another kind than
            MONAI's bundle format says.
    """
    file = path / METADATA
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        tensors = content.get("network_data_format", {})
        inputs = [item for item in tensors.get("inputs", {}).values() if item.get("type", "image") == "image"]
        output = _output(tensors.get("outputs", {}))
        channels = {int(key): str(name) for key, name in (output.get("channel_def") or {}).items()}
        return Metadata(
            version=str(content.get("version", "")),
            n_inputs=sum(int(item.get("num_channels", 1)) for item in inputs) or 1,
            n_outputs=int(output.get("num_channels", len(channels))),
            labels=_labels(channels),
            mirror_axes=_axes(content.get("mirror_axes", [])),
            air=_air(content.get("air_is_background")),
            license=str(content.get("license", "")),
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise PipelineError(Code.MODEL_INVALID, f"{file}: {error}", "write it as MONAI's bundle format says") from None


def _output(outputs: dict[str, Any]) -> dict[str, Any]:
    """The tensor of the labels: `pred`, or the only one."""
    found = outputs.get("pred") or (next(iter(outputs.values())) if len(outputs) == 1 else {})
    if not isinstance(found, dict):
        raise TypeError("network_data_format.outputs.pred is no object")
    return found


def _labels(channels: dict[int, str]) -> tuple[Label, ...]:
    """Channel numbers are label numbers; a single channel is the one label, 1."""
    if len(channels) == 1:
        return tuple(Label(index=1, name=name) for name in channels.values())
    return tuple(Label(index=index, name=name) for index, name in sorted(channels.items()) if index != 0)


def _axes(given: list[int]) -> tuple[int, ...]:
    if not set(given) <= {0, 1, 2}:
        raise ValueError(f"mirror_axes {given} are not among 0, 1, 2")
    return tuple(sorted(set(given)))


def _air(given: object) -> float | Literal["clip"] | None:
    if given is None:
        return None
    if given == "clip":
        return "clip"
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f'air_is_background {given!r} is neither a number nor "clip"')
    return float(given)
