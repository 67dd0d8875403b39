"""What a model's folder says of itself, read without torch: name, version, digest, labels, which series it takes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.labels import Label, read_labels
from imaging_pipeline.segment.manifest import (
    MANIFEST,
    check_manifest,
    deciding_files,
    digest_of,
    joint_digest,
)
from imaging_pipeline.segment.metadata import METADATA, read_metadata
from imaging_pipeline.segment.nnunet.plans import is_nnunet, read_plans
from imaging_pipeline.segment.weights import MODELS, SUFFIXES, Weights, choose_weights
from imaging_pipeline.settings import ModelSettings

INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
LABELS = Path("labels.tsv")
SELECTION = Path("selection.yaml")


class Kind(StrEnum):
    """What a model's folder is."""

    MONAI = "monai"
    NNUNET = "nnunet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A model's folder and its own account of itself.

    Attributes:
        path: The folder.
        name: Name of the folder, by which settings and results call the model.
        kind: A MONAI bundle, or an exported nnU-Net v2 model.
        version: From configs/metadata.json.
        digest: SHA-256 over everything that can change a mask: configs, scripts, labels and the weights in use.
        inference: The inference config, relative to `path`.
        weights: The networks in use; several are averaged.
        n_outputs: Channels that the network gives; 0 where the metadata does not say.
        mirror_axes: Axes of the model grid about which test-time mirroring is allowed; None: the weights say.
        air: What counts as air, and hence as background; None: nothing does.
        labels: Structures that it finds.
        selection: Its selection.yaml, or None where it takes every series.
    """

    path: Path
    name: str
    kind: Kind
    version: str
    digest: str
    inference: Path
    weights: tuple[Weights, ...]
    n_outputs: int
    mirror_axes: tuple[int, ...] | None
    air: float | Literal["clip"] | None
    labels: tuple[Label, ...]
    selection: Path | None


def describe(model: str, settings: ModelSettings) -> Bundle:
    """Find a model by name or path, check it against its manifest, and read what it says of itself.

    Args:
        model: Name of a folder under one of `models.trusted_dirs`, or a path.
        settings: Names the trusted folders, the backend, and whether every fold's network is used.

    Raises:
        PipelineError: `model-not-found`, `model-untrusted`, `model-digest-mismatch`, `model-multi-channel`,
            `model-invalid`, or `extra-missing` for weights that an installed package should bring.
    """
    path = _find(model, settings)
    listed = check_manifest(path)
    if listed is None and settings.require_manifest:
        raise _invalid(path, f"{MANIFEST} is missing and models.require_manifest is set")
    bundle = _describe_nnunet(path, settings) if is_nnunet(path) else _describe_monai(path, settings)
    _check_numbering(bundle)
    return bundle


def known_bundles(settings: ModelSettings) -> Iterator[Path]:
    """Folders of the models that the settings trust, by name."""
    for folder in settings.trusted_dirs:
        yield from sorted(path for path in folder.glob("*") if _is_model(path))


def digest_in_use(path: Path, weights: tuple[Weights, ...]) -> str:
    """SHA-256 over configs, scripts, labels and those weights; other forms of the weights do not count."""
    files = {file.relative_to(path).as_posix(): file for file in deciding_files(path)}
    chosen = {item.name: item.path for item in weights}
    deciding = {name: file for name, file in files.items() if name != SELECTION.as_posix() and not _is_weight(name)}
    return joint_digest({name: digest_of(file) for name, file in {**deciding, **chosen}.items()})


def _describe_monai(path: Path, settings: ModelSettings) -> Bundle:
    metadata = read_metadata(path)
    inference = next((Path(name) for name in INFERENCE if (path / name).is_file()), None)
    if inference is None:
        raise _invalid(path, f"none of {', '.join(INFERENCE)} is there")
    if metadata.n_inputs != 1:
        raise PipelineError(
            Code.MODEL_MULTI_CHANNEL,
            f"{path.name} takes {metadata.n_inputs} aligned image channels; a series is one",
            "choose a model of one channel",
        )
    labels = read_labels(path / LABELS) if (path / LABELS).is_file() else metadata.labels
    if not labels:
        raise _invalid(path, f"neither {LABELS} nor network_data_format.outputs.pred.channel_def names a label")
    weights = choose_weights(path, settings)
    return Bundle(
        path=path,
        name=path.name,
        kind=Kind.MONAI,
        version=metadata.version,
        digest=digest_in_use(path, weights),
        inference=inference,
        weights=weights,
        n_outputs=metadata.n_outputs,
        mirror_axes=metadata.mirror_axes,
        air=metadata.air,
        labels=labels,
        selection=path / SELECTION if (path / SELECTION).is_file() else None,
    )


def _describe_nnunet(path: Path, settings: ModelSettings) -> Bundle:
    plans = read_plans(path)
    checkpoints = plans.checkpoints if settings.ensemble else plans.checkpoints[:1]
    weights = tuple(Weights(path=path / file, name=file.as_posix(), backend="torch") for file in checkpoints)
    return Bundle(
        path=path,
        name=path.name,
        kind=Kind.NNUNET,
        version="",
        digest=digest_in_use(path, weights),
        inference=Path("plans.json"),
        weights=weights,
        n_outputs=0,
        mirror_axes=None,
        air=None,
        labels=read_labels(path / LABELS) if (path / LABELS).is_file() else plans.labels,
        selection=path / SELECTION if (path / SELECTION).is_file() else None,
    )


def _find(model: str, settings: ModelSettings) -> Path:
    # a link that lies in a trusted folder is trusted; a path that climbs out of one is not
    trusted = [Path(os.path.abspath(folder)) for folder in settings.trusted_dirs]
    candidates = [Path(os.path.abspath(folder / model)) for folder in (*trusted, Path())]
    path = next((candidate for candidate in candidates if _is_model(candidate)), None)
    if path is None:
        known = ", ".join(sorted({item.name for item in known_bundles(settings)})) or "none"
        remedy = "name one of these, or a bundle's path"
        if known == "none":
            folders = ", ".join(map(str, trusted))
            remedy = f"{folders} holds none: set IMAGING_PIPELINE_HOME to a folder with conf/ and models/, or name "
            remedy += "a bundle's path"
        raise PipelineError(Code.MODEL_NOT_FOUND, f"no bundle {model!r}; known here: {known}", remedy)
    if not any(path.is_relative_to(folder) or path.resolve().is_relative_to(folder.resolve()) for folder in trusted):
        raise PipelineError(
            Code.MODEL_UNTRUSTED,
            f"{path} lies under none of models.trusted_dirs",
            "a bundle is code: if you trust it, add "
            f"--set 'models.trusted_dirs=[{', '.join(map(str, (*settings.trusted_dirs, path.parent)))}]'",
        )
    return path


def _is_model(path: Path) -> bool:
    return (path / METADATA).is_file() or is_nnunet(path)


def _is_weight(name: str) -> bool:
    """Weights of the networks, in any form; other files of models/ belong to the model whatever weights are in use."""
    file = Path(name)
    return file.suffix == ".pth" or (
        file.parent == MODELS
        and file.suffix in {suffix for suffixes in SUFFIXES.values() for suffix in (*suffixes, ".bin")}
        and (file.stem == "model" or file.stem.startswith("fold_"))
    )


def _check_numbering(bundle: Bundle) -> None:
    """With several channels, a label's number is its channel."""
    largest = max(label.index for label in bundle.labels)
    if bundle.n_outputs > 1 and largest >= bundle.n_outputs:
        raise _invalid(bundle.path, f"label {largest} is named, the network gives channels 0 to {bundle.n_outputs - 1}")


def _invalid(path: Path, message: str) -> PipelineError:
    return PipelineError(Code.MODEL_INVALID, f"{path}: {message}", "complete the bundle: see MONAI's bundle format")
