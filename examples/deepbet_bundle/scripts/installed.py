"""Networks that an installed Python package brings along."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path

import torch


def load(manifest: str | Path, device: str | torch.device = "cpu") -> torch.jit.ScriptModule:
    """Open a TorchScript network in an installed package, and only the very one that a manifest names.

    Args:
        manifest: JSON with `distribution`, `version`, `file` (relative to the place where distributions are installed)
            and `sha256`.
        device: Where the network is to run.

    Returns:
        The network in evaluation mode, without gradients.

    Raises:
        ImportError: The distribution is not installed.
        ValueError: It is another version, or the file is not the one with that SHA-256.
    """
    where = json.loads(Path(manifest).read_text(encoding="utf-8"))
    requirement = f"{where['distribution']}=={where['version']}"
    try:
        distribution = metadata.distribution(where["distribution"])
    except metadata.PackageNotFoundError:
        raise ImportError(f"{requirement} is not installed: pip install {requirement}") from None
    if distribution.version != where["version"]:
        raise ValueError(f"{requirement} is needed, {distribution.version} is installed: pip install {requirement}")
    file = Path(str(distribution.locate_file(where["file"])))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != where["sha256"]:
        raise ValueError(f"{file} has SHA-256 {found[:16]}, {Path(manifest).name} says {where['sha256'][:16]}")
    network: torch.jit.ScriptModule = torch.jit.load(file, map_location=device)
    for parameter in network.parameters():
        parameter.requires_grad = False
    return network.eval()
