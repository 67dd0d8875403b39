"""TorchScript archives (.ts), which bring their own network."""

from pathlib import Path

import torch

from imaging_pipeline.segment.backends.network import Network, unreadable
from imaging_pipeline.segment.backends.state_dict import TorchNetwork

EXTRA = ""


def is_available() -> bool:
    """TorchScript comes with torch."""
    return True


def load(path: Path, device: torch.device) -> Network:
    """Open the archive.

    Raises:
        PipelineError: `weights-unsafe` for a file that is no TorchScript.
    """
    try:
        module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise unreadable(path, error) from None
    return TorchNetwork(module.eval())
