"""The device that a network runs on, and what suits it: threads, precision, memory layout."""

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.settings import SegmentSettings, available_cores

if TYPE_CHECKING:
    from imaging_pipeline.segment.backends.accelerate import How


def pick_device(name: str) -> torch.device:
    """The device of volumes and sums for a setting, the first of several; see `pick_devices`."""
    return pick_devices(name)[0]


def pick_devices(names: str) -> tuple[torch.device, ...]:
    """The devices for a setting: auto takes the first CUDA device where there is one.

    Args:
        names: auto, or devices by commas.

    Raises:
        PipelineError: `device-not-found` for a CUDA device that this process does not see.
    """
    if names == "auto":
        return (torch.device("cuda:0" if torch.cuda.device_count() else "cpu"),)
    return tuple(_seen(name) for name in names.split(","))


def _seen(name: str) -> torch.device:
    n_cuda = torch.cuda.device_count()
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= n_cuda:
        raise PipelineError(
            Code.DEVICE_NOT_FOUND,
            f"device {name} asked for, {n_cuda} CUDA devices seen by torch {torch.__version__}",
            "use --device cpu, or install a CUDA build of torch",
        )
    return device


def cuda_devices() -> int:
    """CUDA devices that torch sees; does not initialise CUDA."""
    return torch.cuda.device_count()


def is_cuda_in_use() -> bool:
    """Whether this process has initialised CUDA, after which it sees the same devices for good."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def claim_share(names: str, share: float) -> None:
    """Keep this process to a share of the memory of CUDA devices, so that others find theirs.

    Args:
        names: Devices by commas; those that are not CUDA are left alone.
        share: Of each device's memory, 0 to 1.

    Raises:
        PipelineError: `device-not-found`.
    """
    for device in pick_devices(names):
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(share, device)


def give_back_unused() -> None:
    """Memory of CUDA devices that torch keeps for later goes back to them; models stay."""
    if is_cuda_in_use():
        torch.cuda.empty_cache()


def prepare(device: torch.device, settings: SegmentSettings, cores: int | None) -> None:
    """Set threads and cuDNN for one task of this process.

    Args:
        device: Where the network runs.
        settings: `threads` wins over the task's cores.
        cores: Cores that the task owns; None where nobody deals them out.
    """
    torch.set_num_threads(settings.threads or cores or available_cores())
    if cores is not None and torch.get_num_interop_threads() != 1:
        # branches of scripted networks side by side would take the cores of other tasks; torch lets a process choose
        # once, before the first of them: where that is past, the pool stays as it is
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(1)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # one window shape all day long


def autocast(device: torch.device, settings: SegmentSettings) -> AbstractContextManager[object]:
    """Mixed precision as the settings say, around a network of torch; see `network_dtype`."""
    dtype = network_dtype(device, settings)
    return contextlib.nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype=dtype)


def network_dtype(device: torch.device, settings: SegmentSettings) -> torch.dtype:
    """What a network mostly computes in; auto: on CUDA bf16 where the chip has it, else fp16; on the CPU float32."""
    if settings.amp == "off" or (settings.amp == "auto" and device.type != "cuda"):
        return torch.float32
    if settings.amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if settings.amp == "bf16" else torch.float16


def allowed_axes(model: str, allowed: tuple[int, ...], settings: SegmentSettings) -> tuple[int, ...]:
    """Axes to mirror about; none unless the settings ask for it.

    Raises:
        PipelineError: `settings-invalid` where the model allows none.
    """
    if settings.tta and not allowed:
        raise PipelineError(
            Code.SETTINGS_INVALID,
            f"test-time mirroring asked for, and {model} allows no axis",
            "leave --tta away, or name mirror_axes in the bundle's configs/metadata.json if it was trained with flips",
        )
    return allowed if settings.tta else ()


def acceleration(device: torch.device, settings: SegmentSettings) -> "How":
    """How networks are made faster on a device; auto: CUDA graphs, which change no score."""
    if settings.acceleration == "auto":
        return "graph" if device.type == "cuda" else "off"
    return settings.acceleration


def for_fallback(settings: SegmentSettings) -> SegmentSettings:
    """Settings for the CPU where a volume did not fit the device asked for, whose acceleration may not run there."""
    return settings.model_copy(update={"acceleration": "auto", "shard": False})


def sums_dtype(device: torch.device) -> torch.dtype:
    """Precision of sums of scores: half on CUDA, where memory is short and sums are checked for overflow."""
    return torch.float16 if device.type == "cuda" else torch.float32


def window_batch(device: torch.device, settings: SegmentSettings, bundle_batch: int) -> int:
    """Windows a batch. On CPU never 1: a float32 3D convolution of batch 1 falls off oneDNN and takes twice as long."""
    if settings.window_batch:
        return settings.window_batch
    return max(2 if device.type == "cpu" else 4, bundle_batch)


def peak_device_mb(device: torch.device) -> float:
    """Largest device memory since the last call of `reset_peak`; 0 on CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def free_device_bytes(device: torch.device) -> int:
    """Memory that this process can still take of a CUDA device: what is free, within the share that it has claimed."""
    free, total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    share_of = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # torch 2.8
    share = 1.0 if share_of is None else share_of(device)
    return int(min(free + unused, share * total - torch.cuda.memory_allocated(device)))


def reset_peak(device: torch.device) -> None:
    """Start counting device memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
