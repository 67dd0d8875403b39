"""Which weight files of a bundle are opened, and by which backend; read without torch."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.manifest import digest_of
from imaging_pipeline.settings import ModelSettings

MODELS = Path("models")
ELSEWHERE = MODELS / "weights.json"
"""Says of weights that an installed package brings: distribution, version, file, format and sha256."""

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "torch": (".pt",),
    "torchscript": (".ts",),
    "export": (".pt2",),
    "onnxruntime": (".onnx",),
    "openvino": (".xml", ".onnx"),
}
"""Backend to the endings of the files that it opens, the preferred one first."""

LIVE = ("onnxruntime", "openvino")
"""Backends that a state dict can be turned into when it is opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One network's file.

    Attributes:
        path: The file.
        name: How digests call it: relative to the bundle, or `distribution:file` for an installed package's.
        backend: What opens it.
        wanted: What is to run it: what opens it, another backend that a state dict is turned into, or auto.
    """

    path: Path
    name: str
    backend: str
    wanted: str = "auto"


def choose_weights(bundle: Path, settings: ModelSettings) -> tuple[Weights, ...]:
    """The weights that a run opens: one network's, or those of every fold where an ensemble is asked for.

    Args:
        bundle: The bundle's folder.
        settings: `backend` and `ensemble`.

    Raises:
        PipelineError: `model-invalid` where the file is not there, `extra-missing` and `model-digest-mismatch` for
            weights that an installed package should bring.
    """
    stem = "fold_*" if settings.ensemble else "model"
    backends = _usable(settings)
    for backend, suffixes in backends.items():
        for suffix in suffixes:
            files = sorted((bundle / MODELS).glob(f"{stem}{suffix}"))
            if files:
                return tuple(_weights(bundle, file, backend, settings) for file in files)
    if (bundle / ELSEWHERE).is_file() and not settings.ensemble:
        return (_elsewhere(bundle, settings),)
    if not settings.ensemble and (only := _only_one(bundle, backends)) is not None:
        return (_weights(bundle, only[1], only[0], settings),)
    raise _none_there(bundle, stem, settings)


def _usable(settings: ModelSettings) -> Mapping[str, tuple[str, ...]]:
    """Backends and endings that may be opened: those of the backend asked for, then what it can be made of."""
    if settings.backend == "auto":
        return SUFFIXES
    names = (settings.backend, "torch") if settings.backend in LIVE else (settings.backend,)
    return {name: SUFFIXES[name] for name in names}


def _only_one(bundle: Path, backends: Mapping[str, tuple[str, ...]]) -> tuple[str, Path] | None:
    """Backend and file where a bundle has one weight file, whatever its name."""
    files = [file for file in (bundle / MODELS).glob("*") if not file.stem.startswith("fold_")]
    found = [(name, file) for name, suffixes in backends.items() for file in files if file.suffix == suffixes[0]]
    return found[0] if len(found) == 1 else None


def _weights(bundle: Path, file: Path, backend: str, settings: ModelSettings) -> Weights:
    if backend == "torch" and _is_torchscript(file):
        backend = "torchscript"
    elif settings.backend == "auto" and backend == "onnxruntime" and find_spec("onnxruntime") is None:
        backend = "openvino"
    name = file.relative_to(bundle).as_posix()
    return Weights(path=file, name=name, backend=backend, wanted=settings.backend)


def _is_torchscript(file: Path) -> bool:
    """TorchScript archives carry their code; state dicts have none."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _elsewhere(bundle: Path, settings: ModelSettings) -> Weights:
    """Weights in an installed package, checked against the digest that the bundle pins."""
    where = _read_elsewhere(bundle / ELSEWHERE)
    requirement = f"{where['distribution']}=={where['version']}"
    try:
        distribution = metadata.distribution(where["distribution"])
    except metadata.PackageNotFoundError:
        raise _install(bundle, f"its weights come with {requirement}, which is not installed", requirement) from None
    file = Path(str(distribution.locate_file(where["file"])))
    if distribution.version != where["version"] or not file.is_file():
        raise _install(
            bundle, f"{where['file']} of {requirement} is not here, only {distribution.version}", requirement
        )
    found = digest_of(file)
    if found != where["sha256"]:
        raise PipelineError(
            Code.MODEL_DIGEST_MISMATCH,
            f"{file} has SHA-256 {found[:16]}, {bundle / ELSEWHERE} says {where['sha256'][:16]}",
            f"install it anew: pip install --force-reinstall {requirement}",
        )
    is_live = settings.backend in LIVE and where["format"] == "torch"
    if where["format"] not in SUFFIXES or not (is_live or settings.backend in ("auto", where["format"])):
        raise _none_there(bundle, "model", settings)
    name = f"{where['distribution']}:{where['file']}"
    return Weights(path=file, name=name, backend=where["format"], wanted=settings.backend)


def _read_elsewhere(file: Path) -> dict[str, str]:
    keys = ("distribution", "version", "file", "format", "sha256")
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        return {key: str(content[key]) for key in keys}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            Code.MODEL_INVALID, f"{file}: {error!r}", f"write an object with the keys {', '.join(keys)}"
        ) from None


def _install(bundle: Path, message: str, requirement: str) -> PipelineError:
    return PipelineError(Code.EXTRA_MISSING, f"{bundle.name}: {message}", f"pip install {requirement}")


def _none_there(bundle: Path, stem: str, settings: ModelSettings) -> PipelineError:
    folder = bundle / MODELS
    here = ", ".join(sorted(file.name for file in folder.glob("*.*"))) if folder.is_dir() else ""
    wanted = ", ".join(dict.fromkeys(f"{stem}{suffix}" for group in _usable(settings).values() for suffix in group))
    return PipelineError(
        Code.MODEL_INVALID,
        f"{folder} holds none of {wanted}; it holds {here or 'nothing'}",
        "put the weights there, or write another form: python -m imaging_pipeline.models export NAME --to ts|pt2|onnx",
    )
