"""The weights of one fold, from a checkpoint that nnU-Net's trainer wrote."""

import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends.state_dict import check_fit

_NUMBERS = (bool, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, *(
    np.float16, np.float32, np.float64
))  # fmt: skip

NUMPY_SCALARS: list[Any] = [
    np.dtype,
    *(type(np.dtype(number)) for number in _NUMBERS),
    (scalar, "numpy._core.multiarray.scalar"),
    (scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
]
"""What numbers of the training log are made of: the trainer keeps them beside the weights."""

_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError),
    *(AttributeError, IndexError, AssertionError, NotImplementedError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One trained fold.

    Attributes:
        weights: The network's state.
        mirror_axes: Axes of the network's input that training mirrored, over which prediction may average.
    """

    weights: dict[str, torch.Tensor]
    mirror_axes: tuple[int, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read weights and nothing that could run: `weights_only`, with numpy's plain numbers allowed.

    Raises:
        PipelineError: `weights-unsafe` where the file holds more than that, or is damaged; `model-invalid` where it
            is no checkpoint of nnU-Net.
    """
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):  # mapped: the optimizer's half is never read
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:  # torch's own message advises to trust the file
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"code ({named[1]})" if named else "no plain tensors, or is damaged"
        raise PipelineError(
            Code.WEIGHTS_UNSAFE,
            f"{path.parent.name}/{path.name} holds {what}",
            "get the checkpoint anew from where it was trained; nothing in it was run",
        ) from None
    try:
        axes = tuple((0, 1, 2).index(axis) for axis in content.get("inference_allowed_mirroring_axes") or ())
        weights = {str(key): value.detach() for key, value in content["network_weights"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PipelineError(
            Code.MODEL_INVALID,
            f"{path.parent.name}/{path.name} is no checkpoint of nnU-Net: {error!r}",
            "give a file that nnU-Net's trainer wrote",
        ) from None
    return Checkpoint(weights=weights, mirror_axes=axes)


def load_weights(network: torch.nn.Module, checkpoint: Checkpoint, fold: str) -> None:
    """Put weights into a network that they fit exactly.

    Raises:
        PipelineError: `weights-mismatch` with numbers and first names of what does not fit.
    """
    check_fit(network, checkpoint.weights, fold, "plans.json")
    network.load_state_dict(checkpoint.weights)
