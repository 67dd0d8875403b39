"""The inference config of a MONAI bundle, parsed for a device: what it defines, without reading and writing files."""

import inspect
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monai.transforms import Compose, SaveImaged

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.metadata import METADATA

_READERS = ("LoadImage", "EnsureChannelFirst")
_WRITERS = ("SaveImage",)
_SCRIPTS = "scripts"
_DICTIONARY_SUFFIXES = ("d", "D", "Dict")

_WRITER_DEFAULT = bool(inspect.signature(SaveImaged).parameters["resample"].default)

CONFIG_FAULTS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RuntimeError, OSError),
    *(SyntaxError, NameError, pickle.UnpicklingError),
)
"""What configs and the scripts that they name are known to raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a bundle's inference config defines.

    Attributes:
        parser: Makes the network where its weights come as a state dict.
        preprocessing: Transforms of `image`, without reading files.
        inferer: Takes the network over a volume.
        postprocessing: Transforms of `pred`, without writing files.
        writer_resamples: The bundle's own writer would bring labels back to the native grid by itself.
    """

    parser: ConfigParser
    preprocessing: Compose
    inferer: Inferer
    postprocessing: Compose
    writer_resamples: bool

    def build(self) -> torch.nn.Module:
        """The network of `network_def`, with no weights yet."""
        section = "network_def" if "network_def" in self.parser else "network"
        network: torch.nn.Module = self.parser.get_parsed_content(section)
        return network


def parse_config(bundle: Bundle, device: torch.device) -> Config:
    """Parse a bundle's inference config.

    Raises:
        PipelineError: `model-invalid` where it cannot be parsed.
    """
    _import_from(bundle.path)
    try:
        parser = ConfigParser()
        parser.read_config(str(bundle.path / bundle.inference))
        parser.read_meta(str(bundle.path / METADATA))
        parser["bundle_root"] = str(bundle.path)
        parser["device"] = f"$torch.device({str(device)!r})"
        list(_take_out(parser.config, _READERS))
        writers = list(_take_out(parser.config, _WRITERS))
        return Config(
            parser=parser,
            preprocessing=parser.get_parsed_content("preprocessing"),
            inferer=parser.get_parsed_content("inferer"),
            postprocessing=parser.get_parsed_content("postprocessing"),
            writer_resamples=any(writer.get("resample", _WRITER_DEFAULT) for writer in writers),
        )
    except CONFIG_FAULTS as error:
        raise invalid(bundle, error) from error


def invalid(bundle: Bundle, error: Exception) -> PipelineError:
    """A bundle whose parts do not fit together, in one sentence."""
    cause: BaseException = error
    while cause.__cause__ is not None:  # the parser wraps what an expression raised
        cause = cause.__cause__
    text = " ".join(str(cause).split())[:400]
    return PipelineError(
        Code.MODEL_INVALID,
        f"bundle {bundle.name} cannot be opened: {type(cause).__name__}: {text}",
        f"see whether `python -m monai.bundle run` accepts {bundle.inference}",
    )


def _take_out(config: Any, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Remove transforms of some kinds from every list of a config, wherever it keeps them; those removed."""
    names = {f"{kind}{suffix}" for kind in kinds for suffix in _DICTIONARY_SUFFIXES}
    if isinstance(config, list):
        yield from (item for item in config if _name(item) in names)
        config[:] = [item for item in config if _name(item) not in names]
    for item in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _take_out(item, kinds)


def _name(step: Any) -> str:
    return str(step.get("_target_", "")).rsplit(".", 1)[-1] if isinstance(step, dict) else ""


def _import_from(root: Path) -> None:
    """Let a config import the bundle's own scripts, and nobody else's of the same name."""
    for other in [place for place in sys.path if place != str(root) and (Path(place) / METADATA).is_file()]:
        sys.path.remove(other)
        for name in list(_modules_under(Path(other))):
            del sys.modules[name]
    if str(root) not in sys.path:
        sys.path.append(str(root))
    mine = set(_modules_under(root))
    if _SCRIPTS not in mine:
        for name in [name for name in sys.modules if name.split(".")[0] == _SCRIPTS]:
            del sys.modules[name]
        _load_scripts(root)


def _load_scripts(root: Path) -> None:
    """Found in the bundle alone: a package without `__init__.py` would lose to any other on the path."""
    spec = PathFinder.find_spec(_SCRIPTS, [str(root)])
    if spec is None:
        return
    module = module_from_spec(spec)
    sys.modules[_SCRIPTS] = module
    if spec.loader is not None:
        spec.loader.exec_module(module)


def _modules_under(root: Path) -> Iterator[str]:
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if isinstance(spec, ModuleSpec):
            places = [spec.origin, *(spec.submodule_search_locations or ())]
            if any(place and Path(place).is_relative_to(root) for place in places):
                yield name
