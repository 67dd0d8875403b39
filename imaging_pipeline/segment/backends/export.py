"""Programs of torch.export (.pt2), which bring their own network."""

import zipfile
from pathlib import Path

import torch
from torch.export.passes import move_to_device_pass

from imaging_pipeline.segment.backends.network import Network, unreadable
from imaging_pipeline.segment.backends.state_dict import TorchNetwork

EXTRA = ""


def is_available() -> bool:
    """torch.export comes with torch."""
    return True


def load(path: Path, device: torch.device) -> Network:
    """Open the program and put it on the device.

    Raises:
        PipelineError: `weights-unsafe` for a file that is no such program.
    """
    try:
        program = torch.export.load(str(path))
        if device.type != "cpu":
            program = move_to_device_pass(program, device)
    except (RuntimeError, ValueError, OSError, KeyError, AssertionError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from None
    return TorchNetwork(program.module())
