"""What an nnU-Net v2 model folder says of itself, read without torch: plans.json, dataset.json, which folds it has."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.labels import Label
from imaging_pipeline.segment.nnunet.architecture import Architecture, read_architecture
from imaging_pipeline.segment.nnunet.heads import read_heads
from imaging_pipeline.segment.nnunet.recipe import (
    Normalisation,
    Resampling,
    check_known,
    read_normalisation,
    read_resampling,
)
from imaging_pipeline.segment.nnunet.told import told_configuration

PLANS = "plans.json"
DATASET = "dataset.json"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)
_HINT = "give the folder that nnU-Net's training wrote: plans.json, dataset.json and fold_*/checkpoint_final.pth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """One configuration of a trained nnU-Net. Its axes are those of the transposed (K, J, I) image.

    Attributes:
        name: The data set that it was trained on.
        configuration: As plans.json calls it, such as 3d_fullres.
        spacing_mm: Of the network's grid.
        patch_size: Voxels of a window.
        transpose_forward: Axes of the (K, J, I) image in the network's order.
        transpose_backward: Its inverse.
        normalisation: Of the one channel.
        resample_image: Native → network grid; None where the model runs on native voxels.
        resample_logits: Network → native grid; None likewise.
        architecture: Class and arguments of the network.
        labels: What the mask may hold, background left out.
        regions: Label that each of the network's channels writes, later over earlier; empty where channels are
            exclusive labels.
        n_outputs: Channels that the network gives.
        checkpoints: One a fold, in the order of folds, relative to the folder.
    """

    name: str
    configuration: str
    spacing_mm: tuple[float, ...]
    patch_size: tuple[int, ...]
    transpose_forward: tuple[int, ...]
    transpose_backward: tuple[int, ...]
    normalisation: Normalisation
    resample_image: Resampling | None
    resample_logits: Resampling | None
    architecture: Architecture
    labels: tuple[Label, ...]
    regions: tuple[int, ...]
    n_outputs: int
    checkpoints: tuple[Path, ...]


def is_nnunet(path: Path) -> bool:
    """Whether a folder looks like an exported nnU-Net v2 model."""
    return (path / PLANS).is_file() and (path / DATASET).is_file()


def read_plans(path: Path) -> Plans:
    """Read a model folder, such as `nnUNetTrainer__nnUNetPlans__3d_fullres`.

    Args:
        path: Holds plans.json, dataset.json and fold_*/checkpoint_final.pth (or checkpoint_best.pth).

    Raises:
        PipelineError: `model-invalid` for a folder that is incomplete or asks for what does not run here,
            `model-multi-channel` for a model of several aligned images.
    """
    plans, dataset = _object(path / PLANS), _object(path / DATASET)
    try:
        return _read(path, plans, dataset)
    except _MALFORMED as error:
        text = f"{type(error).__name__}: {error}"
        raise PipelineError(Code.MODEL_INVALID, f"{path}: plans or data set: {text}", _HINT) from None


def _read(path: Path, plans: dict[str, Any], dataset: dict[str, Any]) -> Plans:
    _check_one_channel(path, dataset)
    checkpoints = _checkpoints(path)
    name = _configuration_name(path, checkpoints[0], plans)
    config = _inherited(plans, name)
    _check_one_stage(path, name, config)
    check_known({**plans, **config})
    heads = read_heads(dataset)
    forward, backward = tuple(plans["transpose_forward"]), tuple(plans["transpose_backward"])
    if sorted(forward) != [0, 1, 2] or [forward[axis] for axis in backward] != [0, 1, 2]:
        raise ValueError(f"transpose_forward {forward} and transpose_backward {backward} do not fit")
    return Plans(
        name=str(plans.get("dataset_name", path.name)),
        configuration=name,
        spacing_mm=tuple(float(edge) for edge in _positive("spacing", config["spacing"])),
        patch_size=tuple(int(edge) for edge in _positive("patch_size", config["patch_size"])),
        transpose_forward=forward,
        transpose_backward=backward,
        normalisation=read_normalisation(plans, config),
        resample_image=read_resampling(config, "data"),
        resample_logits=read_resampling(config, "probabilities"),
        architecture=read_architecture(config),
        labels=heads.labels,
        regions=heads.regions,
        n_outputs=heads.n_outputs,
        checkpoints=checkpoints,
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PipelineError(Code.MODEL_INVALID, f"{path}: {error}", _HINT) from None
    if not isinstance(content, dict):
        raise PipelineError(Code.MODEL_INVALID, f"{path} holds no object", _HINT)
    return content


def _check_one_channel(path: Path, dataset: dict[str, Any]) -> None:
    channels = dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]
    if len(channels) != 1:
        names = ", ".join(map(str, channels.values()))
        raise PipelineError(
            Code.MODEL_MULTI_CHANNEL,
            f"{path}: {len(channels)} input channels ({names}), 1 runs here",
            "use a model that was trained on one channel",
        )


def _checkpoints(path: Path) -> tuple[Path, ...]:
    """The numbered folds that have the better-known checkpoint; fold_all only where it is alone, as nnU-Net does."""
    for name in CHECKPOINTS:
        folds = [file.parent.name for file in path.glob(f"fold_*/{name}")]
        numbered = sorted((fold for fold in folds if fold[5:].isdecimal()), key=lambda fold: int(fold[5:]))
        if numbered or "fold_all" in folds:
            return tuple(Path(fold) / name for fold in numbered or ["fold_all"])
    raise PipelineError(Code.MODEL_INVALID, f"{path}: no fold_*/{' or '.join(CHECKPOINTS)}", _HINT)


def _configuration_name(path: Path, checkpoint: Path, plans: dict[str, Any]) -> str:
    """By the checkpoint, as nnU-Net itself does; else by the folder's name; else the only one that there is."""
    known = list(plans["configurations"])
    parts = path.resolve().name.split("__")
    told = told_configuration(path / checkpoint) or (parts[2] if len(parts) == 3 else None)
    name = told or (known[0] if len(known) == 1 else None)
    if name not in known:
        raise PipelineError(
            Code.MODEL_INVALID,
            f"{path}: configuration {name or 'not told by checkpoint or name of the folder'}, "
            f"{PLANS} has {', '.join(known) or 'none'}",
            "name the folder <trainer>__<plans>__<configuration>, as nnU-Net does",
        )
    return str(name)


def _inherited(plans: dict[str, Any], name: str) -> dict[str, Any]:
    chain = [name]
    while (parent := plans["configurations"][chain[-1]].get("inherits_from")) is not None:
        if parent in chain:
            raise ValueError(f"configurations inherit in a circle: {' → '.join([*chain, parent])}")
        chain.append(parent)
    return {key: value for link in reversed(chain) for key, value in plans["configurations"][link].items()}


def _check_one_stage(path: Path, name: str, config: dict[str, Any]) -> None:
    n_axes, previous = len(config["patch_size"]), config.get("previous_stage")
    if n_axes != 3:
        raise PipelineError(
            Code.MODEL_INVALID,
            f"{path}: configuration {name} works on {n_axes}D patches, 3D runs here",
            "export the model's 3d_fullres configuration",
        )
    if previous is not None:
        raise PipelineError(
            Code.MODEL_INVALID,
            f"{path}: configuration {name} is the second stage of a cascade after {previous}, one stage runs here",
            "export the model's 3d_fullres or 3d_lowres configuration",
        )


def _positive(name: str, values: Sequence[float]) -> Sequence[float]:
    if len(values) != 3 or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"{name} {values}, three positive numbers are needed")
    return values
