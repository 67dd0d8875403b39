"""A stand-in for `pynvml` on machines without a GPU: two GPUs, and a part of one that tells nothing of itself."""

from __future__ import annotations

from pathlib import Path

_MODULE = """
from types import SimpleNamespace


class NVMLError(Exception):
    pass


def nvmlInit():
    pass


def nvmlDeviceGetCount():
    return 3


def nvmlDeviceGetHandleByIndex(number):
    return number


def nvmlDeviceGetMemoryInfo(handle):
    if handle == 2:
        raise NVMLError("Not Supported")
    return SimpleNamespace(used=(handle + 1) << 30, total=8 << 30)


def nvmlDeviceGetUtilizationRates(handle):
    return SimpleNamespace(gpu=50 * handle, memory=0)
"""


def write_to(folder: Path) -> None:
    """Put it where a folder of PYTHONPATH has it."""
    (folder / "pynvml.py").write_text(_MODULE)
