"""A bundle opened for use: its network with weights, its transforms and its inferer, on one device."""

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monai.transforms import Compose

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import METADATA, WEIGHTS, Bundle

_READERS = frozenset(("LoadImaged", "LoadImageD", "LoadImageDict", "EnsureChannelFirstd", "EnsureChannelFirstD"))
_WRITERS = frozenset(("SaveImaged", "SaveImageD", "SaveImageDict"))

# what configs, networks and weights that do not fit together are known to raise
_BUNDLE_FAULTS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RuntimeError, OSError),
    pickle.UnpicklingError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network ready to run.

    Attributes:
        bundle: What it was opened from.
        device: Where it runs.
        network: (N, 1, I, J, K) window → (N, C, I, J, K) class scores, in evaluation mode.
        preprocessing: The bundle's transforms, without reading files.
        inferer: The bundle's inferer.
        postprocessing: The bundle's transforms, without writing files.
    """

    bundle: Bundle
    device: torch.device
    network: torch.nn.Module
    preprocessing: Compose
    inferer: Inferer
    postprocessing: Compose


_CACHE: dict[tuple[str, str], Model] = {}


def open_model(bundle: Bundle, device: torch.device) -> Model:
    """Open a bundle on a device; a process opens the same one once.

    Raises:
        PipelineError: `model-invalid` where config, network and weights do not fit together.
    """
    key = (bundle.digest, str(device))
    if key not in _CACHE:
        _CACHE[key] = _open(bundle, device)
    return _CACHE[key]


def _open(bundle: Bundle, device: torch.device) -> Model:
    try:
        parser = _parser(bundle, device)
        network = _network(parser, bundle.path / WEIGHTS, device)
        return Model(
            bundle=bundle,
            device=device,
            network=network,
            preprocessing=parser.get_parsed_content("preprocessing"),
            inferer=parser.get_parsed_content("inferer"),
            postprocessing=parser.get_parsed_content("postprocessing"),
        )
    except _BUNDLE_FAULTS as error:
        raise _invalid(bundle, error) from error


def _parser(bundle: Bundle, device: torch.device) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle.path / bundle.inference))
    parser.read_meta(str(bundle.path / METADATA))
    parser["bundle_root"] = str(bundle.path)
    parser["device"] = f"$torch.device({str(device)!r})"
    for section, unwanted in (("preprocessing", _READERS), ("postprocessing", _WRITERS)):
        steps = parser[f"{section}#transforms"]
        parser[f"{section}#transforms"] = [step for step in steps if not _is_one_of(step, unwanted)]
    if str(bundle.path) not in sys.path:  # configs import from the bundle's own scripts
        sys.path.append(str(bundle.path))
    return parser


def _is_one_of(step: Any, names: frozenset[str]) -> bool:
    return isinstance(step, dict) and str(step.get("_target_", "")).rsplit(".", 1)[-1] in names


def _network(parser: ConfigParser, weights: Path, device: torch.device) -> torch.nn.Module:
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    network.load_state_dict(_state(weights))
    network = network.eval().requires_grad_(False)
    on_device: torch.nn.Module = network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return on_device


def _state(weights: Path) -> Any:
    try:
        return torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):  # torch's own message advises to trust the file
        raise ValueError(f"{weights.name} holds no plain tensors: damaged, or a pickle of code") from None


def _invalid(bundle: Bundle, error: Exception) -> PipelineError:
    text = " ".join(str(error).split())[:400]
    return PipelineError(
        Code.MODEL_INVALID,
        f"bundle {bundle.name} cannot be opened: {type(error).__name__}: {text}",
        f"see whether `python -m monai.bundle run` accepts {bundle.inference}",
    )
