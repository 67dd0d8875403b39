"""How much memory a volume takes, and the steps down when there is not enough of it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from imaging_pipeline.host import available_memory_bytes
from imaging_pipeline.segment.accumulator import spreads
from imaging_pipeline.segment.device import free_device_bytes
from imaging_pipeline.segment.stream import Keeping
from imaging_pipeline.segment.windows import WindowPlan

_CPU = torch.device("cpu")
_CPU_BATCH = 2
_SHARES = (2, 4)

_SPARE = 1.1
"""Estimates are multiplied by this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One way to run a volume; each needs less memory than the one before.

    Attributes:
        name: What receipts call it; empty for the first.
        device: Where the network runs.
        batch: Windows a batch.
        sums_device: Where sums of scores are kept.
        sums_dtype: In what precision.
        share: Slabs are as deep as a window divided by this, and each but those of 1 computes its windows anew.
    """

    name: str
    device: torch.device
    batch: int
    sums_device: torch.device
    sums_dtype: torch.dtype
    share: int = 1

    def keeping(self, plan: WindowPlan) -> Keeping:
        """How sums are kept over windows."""
        depth = None if self.share == 1 else max(plan.size[plan.stream_axis] // self.share, 1)
        return Keeping(device=self.sums_device, dtype=self.sums_dtype, depth=depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a volume asks of memory beyond itself.

    Attributes:
        plan: Its windows.
        n_channels: Classes.
        window_bytes: What the network takes for one window, its scores included.
        n_native: Voxels of the native grid.
    """

    plan: WindowPlan
    n_channels: int
    window_bytes: int
    n_native: int

    def bytes_on(self, rung: Rung, device: torch.device) -> int:
        """What a rung takes on a device: network, sums of scores, labels."""
        network = rung.batch * self.window_bytes if rung.device == device else 0
        sums = self._sums_bytes(rung) + self.n_native if rung.sums_device == device else 0
        return int((network + sums) * _SPARE)

    def _sums_bytes(self, rung: Rung) -> int:
        axis = self.plan.stream_axis
        n_planes = self.plan.shape[axis]
        depth = min(self.plan.size[axis] // rung.share + 1, n_planes)
        weights = math.prod(self.plan.size) * (self.n_channels if spreads(self.n_channels, rung.sums_dtype) else 1)
        sums = (self.n_channels + 1) * depth * math.prod(self.plan.shape) // n_planes
        return (sums + weights) * rung.sums_dtype.itemsize


def rungs(device: torch.device, batch: int, dtype: torch.dtype) -> Iterator[Rung]:
    """Ways to run a volume, the fastest first: smaller batches, sums on the host, smaller slabs, then the CPU.

    Args:
        device: Where the network runs at best.
        batch: Windows a batch at best.
        dtype: Of the sums on the device.
    """
    rung = Rung(name="", device=device, batch=batch, sums_device=device, sums_dtype=dtype)
    yield rung
    while rung.batch > 1:
        rung = replace(rung, name=f"window_batch {rung.batch // 2}", batch=rung.batch // 2)
        yield rung
    if device.type != "cpu":
        rung = replace(rung, name="sums on the host", sums_device=_CPU, sums_dtype=torch.float32)
        yield rung
    for share in _SHARES:
        yield replace(rung, name=f"slabs of 1/{share} window", share=share)
    if device.type != "cpu":
        for lower in rungs(_CPU, _CPU_BATCH, torch.float32):
            yield replace(lower, name=", ".join(filter(None, ("cpu", lower.name))))


def available_bytes(device: torch.device, limit_mb: int) -> int:
    """Memory that is free on a device; on the CPU that of the machine or the control group.

    Args:
        device: The device.
        limit_mb: What the settings allow at most; 0: all.
    """
    free = free_device_bytes(device) if device.type == "cuda" else available_memory_bytes()
    return min(free, limit_mb << 20) if limit_mb else free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch raises plain RuntimeErrors on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
