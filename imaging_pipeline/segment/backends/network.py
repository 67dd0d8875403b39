"""What the engine needs of a network, whatever runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from imaging_pipeline.errors import Code, PipelineError

Build = Callable[[], torch.nn.Module]
"""Makes the network of a config, with no weights yet."""


class Network(Protocol):
    """(N, C, I, J, K) window → (N, classes, I, J, K) scores, on the device that it was loaded for."""

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Class scores of a batch of windows; they hold until the next call."""


class Backend(Protocol):
    """One way to run a network that its file brings along: a module of this package."""

    EXTRA: str

    def is_available(self) -> bool:
        """Whether what it needs is installed."""

    def load(self, path: Path, device: torch.device) -> Network:
        """Open a file."""


def full_resolution(output: Any) -> torch.Tensor:
    """The scores of a network; of several outputs (deep supervision) the first, which has the full resolution."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


def unreadable(path: Path, error: Exception) -> PipelineError:
    """A file that is no such network, in one sentence."""
    text = " ".join(str(error).split())[:300]
    return PipelineError(
        Code.WEIGHTS_UNSAFE,
        f"{path.name} cannot be opened as a network: {type(error).__name__}: {text}",
        "it is damaged or of another form: export it again from the state dict",
    )
