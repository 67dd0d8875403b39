"""Other forms of a bundle's weights, written from the state dict and compared with it."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends import Network, load_network
from imaging_pipeline.segment.backends.probe import window_size
from imaging_pipeline.segment.backends.state_dict import TorchNetwork
from imaging_pipeline.segment.bundle import Bundle, Kind
from imaging_pipeline.segment.config import CONFIG_FAULTS, invalid, parse_config
from imaging_pipeline.segment.manifest import MANIFEST, write_manifest
from imaging_pipeline.segment.weights import MODELS

LARGEST_DIFFERENCE = 1e-3
"""Scores of another form may differ from the state dict's by this share of their range."""

_CPU = torch.device("cpu")
_BATCHES = (2, 1, 3)
"""Compared with: the batch that it was written with, a single window, and one more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A form that was written.

    Attributes:
        path: The file.
        largest_difference: Between its scores and the state dict's, over all windows compared.
        score_range: Largest less smallest score of the state dict's network.
        sealed: The bundle's manifest was brought up to date.
    """

    path: Path
    largest_difference: float
    score_range: float
    sealed: bool


def convert(bundle: Bundle, form: str) -> Converted:
    """Write another form of a bundle's weights beside its state dict.

    Args:
        bundle: Described with the backend `torch`.
        form: ts, pt2 or onnx.

    Raises:
        PipelineError: `model-invalid` where the network cannot be written in that form, `extra-missing` for ONNX
            without its packages, `weights-mismatch` where the written file gives other scores; nothing is kept then.
    """
    if bundle.kind is not Kind.MONAI:
        raise PipelineError(Code.MODEL_INVALID, f"{bundle.name} is no MONAI bundle", "only those can be exported")
    config = parse_config(bundle, _CPU)
    size = window_size(config.inferer)
    if size is None:
        raise PipelineError(
            Code.MODEL_INVALID, f"{bundle.name} has no window of fixed size", "name roi_size in its inferer"
        )
    original = load_network(bundle.weights[0].path, _CPU, config.build, "torch")
    assert isinstance(original, TorchNetwork)
    final = bundle.path / MODELS / f"model.{form}"
    draft = final.with_name(f".draft.{form}")
    try:
        _write(bundle, original.module, draft, form, torch.randn(2, 1, *size))
        converted = _compare(original, load_network(draft, _CPU), final, size)
        draft.replace(final)
    finally:
        draft.unlink(missing_ok=True)
    if (bundle.path / MANIFEST).is_file():
        write_manifest(bundle.path)
    return converted


def _write(bundle: Bundle, module: torch.nn.Module, path: Path, form: str, example: torch.Tensor) -> None:
    module = module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    writers: dict[str, Callable[[], None]] = {
        "ts": lambda: _write_torchscript(module, path, example),
        "pt2": lambda: torch.export.save(_exported(module, example), path),
        "onnx": lambda: _write_onnx(module, path, example),
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # exporters warn of their own future
        try:
            writers[form]()
        except CONFIG_FAULTS as error:
            raise invalid(bundle, error) from error


def _write_torchscript(module: torch.nn.Module, path: Path, example: torch.Tensor) -> None:
    try:
        scripted = torch.jit.script(module)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):  # Python that TorchScript does not know
        scripted = torch.jit.trace(module, example)  # type: ignore[no-untyped-call]
    torch.jit.save(scripted, str(path))


def _exported(module: torch.nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    return torch.export.export(module, (example,), dynamic_shapes=(batch,))


def _write_onnx(module: torch.nn.Module, path: Path, example: torch.Tensor) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise PipelineError(
            Code.EXTRA_MISSING, "writing ONNX needs onnx and onnxscript", "pip install 'imaging-pipeline[onnx]'"
        ) from None
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    torch.onnx.export(
        module,
        (example,),
        str(path),
        input_names=["image"],
        output_names=["pred"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _compare(original: Network, other: Network, final: Path, size: tuple[int, ...]) -> Converted:
    generator = torch.Generator().manual_seed(0)
    largest, lowest, highest = 0.0, float("inf"), -float("inf")
    with torch.inference_mode():
        for batch in _BATCHES:
            windows = torch.randn(batch, 1, *size, generator=generator)
            expected = original(windows)
            largest = max(largest, float((other(windows) - expected).abs().max()))
            lowest, highest = min(lowest, float(expected.min())), max(highest, float(expected.max()))
    if not largest <= LARGEST_DIFFERENCE * (highest - lowest):
        raise PipelineError(
            Code.WEIGHTS_MISMATCH,
            f"{final.name} gives scores up to {largest:.3g} off the state dict's, of a range of {highest - lowest:.3g}",
            "the network does something that this form cannot hold: stay with model.pt",
        )
    return Converted(
        path=final,
        largest_difference=largest,
        score_range=highest - lowest,
        sealed=(final.parents[1] / MANIFEST).is_file(),
    )
