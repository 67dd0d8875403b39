"""What a MONAI bundle says of itself, read without torch: name, version, digest, labels, which series it takes."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.labels import Label, read_labels
from imaging_pipeline.settings import ModelSettings

METADATA = Path("configs/metadata.json")
INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
WEIGHTS = Path("models/model.pt")
LABELS = Path("labels.tsv")
SELECTION = Path("selection.yaml")

_HASH_CHUNK_BYTES = 1 << 20
_DIGESTED = ("configs", "models", "scripts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A model's folder and its own account of itself.

    Attributes:
        path: The bundle's folder.
        name: Name of the folder, by which settings and results call the model.
        version: From configs/metadata.json.
        digest: SHA-256 over everything that can change a mask: configs, weights, scripts and labels.
        inference: The inference config, relative to `path`.
        labels: Structures that it finds.
        selection: Its selection.yaml, or None where it takes every series.
    """

    path: Path
    name: str
    version: str
    digest: str
    inference: Path
    labels: tuple[Label, ...]
    selection: Path | None


def describe(model: str, settings: ModelSettings) -> Bundle:
    """Find a bundle by name or path and read what it says of itself.

    Args:
        model: Name of a folder under one of `models.trusted_dirs`, or a path.
        settings: Names the trusted folders.

    Raises:
        PipelineError: `model-not-found`, `model-untrusted` or `model-invalid`.
    """
    path = _find(model, settings)
    metadata = _metadata(path)
    inference = next((Path(name) for name in INFERENCE if (path / name).is_file()), None)
    if inference is None:
        raise _invalid(path, f"none of {', '.join(INFERENCE)} is there")
    if not (path / WEIGHTS).is_file():
        raise _invalid(path, f"{WEIGHTS} is missing")
    return Bundle(
        path=path,
        name=path.name,
        version=str(metadata.get("version", "")),
        digest=_digest(path),
        inference=inference,
        labels=_labels(path, metadata),
        selection=path / SELECTION if (path / SELECTION).is_file() else None,
    )


def _find(model: str, settings: ModelSettings) -> Path:
    trusted = [folder.resolve() for folder in settings.trusted_dirs]
    candidates = [folder / model for folder in trusted] + [Path(model).resolve()]
    path = next((candidate for candidate in candidates if (candidate / METADATA).is_file()), None)
    if path is None:
        known = ", ".join(sorted(_names(trusted))) or "none"
        raise PipelineError(
            Code.MODEL_NOT_FOUND, f"no bundle {model!r}; known here: {known}", "name one of these, or a bundle's path"
        )
    if not any(path.is_relative_to(folder) for folder in trusted):
        raise PipelineError(
            Code.MODEL_UNTRUSTED,
            f"{path} lies under none of models.trusted_dirs",
            "a bundle is code: if you trust it, add "
            f"--set 'models.trusted_dirs=[{', '.join(map(str, (*settings.trusted_dirs, path.parent)))}]'",
        )
    return path


def _names(folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        yield from (path.parent.parent.name for path in folder.glob(f"*/{METADATA}"))


def _metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((path / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _invalid(path, f"{METADATA}: {error}") from None
    if not isinstance(metadata, dict):
        raise _invalid(path, f"{METADATA} holds no object")
    return metadata


def _labels(path: Path, metadata: dict[str, Any]) -> tuple[Label, ...]:
    """From labels.tsv, else from the channels that metadata names."""
    if (path / LABELS).is_file():
        return read_labels(path / LABELS)
    try:
        channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        return tuple(Label(index=int(key), name=str(name)) for key, name in channels.items() if int(key) != 0)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _invalid(path, f"neither {LABELS} nor network_data_format.outputs.pred.channel_def") from None


def _digest(path: Path) -> str:
    files = [file for folder in _DIGESTED for file in (path / folder).rglob("*") if file.is_file()]
    files = [file for file in files if "__pycache__" not in file.parts]
    total = hashlib.sha256()
    files += [path / LABELS] if (path / LABELS).is_file() else []
    for file in sorted(files):
        content = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK_BYTES):
                content.update(chunk)
        total.update(f"{file.relative_to(path).as_posix()} {content.hexdigest()}\n".encode())
    return total.hexdigest()


def _invalid(path: Path, message: str) -> PipelineError:
    return PipelineError(Code.MODEL_INVALID, f"{path}: {message}", "complete the bundle: see MONAI's bundle format")
