"""What a task was dealt, cores and GPUs, and how torch names these GPUs in this process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.settings import Settings

DEALT = ("auto", "cuda")
"""Devices that are dealt out; all others are the user's word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a task was dealt.

    Attributes:
        cores: CPU cores that it owns; None: all of the machine.
        addresses: GPUs, as the discovery script names them; empty: it has none; None: nobody deals them out.
    """

    cores: int | None = None
    addresses: tuple[str, ...] | None = None


def take(place: Place, settings: Settings) -> tuple[Settings, str]:
    """Settings with the device of this place, and what a user should know of it; empty normally.

    A GPU is taken by its number, `cuda:N`, not by hiding the others through CUDA_VISIBLE_DEVICES: CUDA reads that once
    a process, and a process is handed on to tasks that have other GPUs. Models are cached by device, so a process that
    comes back to a GPU finds its own there.

    Raises:
        PipelineError: `device-not-found`.
    """
    if place.addresses is None:
        return settings, ""
    device, note = _device(place.addresses, settings)
    return settings.model_copy(update={"device": device}), note


def leave(place: Place) -> None:
    """Another process may have this GPU next, and this one another."""
    if place.addresses:
        from imaging_pipeline.segment.device import give_back_unused

        give_back_unused()


def _device(addresses: Sequence[str], settings: Settings) -> tuple[str, str]:
    """The device setting of a task with these GPUs, and what a user should know of it."""
    if not addresses:
        if settings.device == "cuda":
            raise PipelineError(
                Code.DEVICE_NOT_FOUND,
                f"--device cuda, and tasks that ask for {settings.spark.task_gpus:g} GPUs each are dealt none",
                "set spark.executor_gpus for a cluster, lower spark.task_gpus, name one by cuda:N, or use --device cpu",
            )
        return "cpu", ""
    from imaging_pipeline.segment.device import claim_share, cuda_devices

    names = _names(addresses)
    if settings.device == "auto" and not cuda_devices():
        return "cpu", "GPUs are dealt to tasks, and torch sees no CUDA device: they use the CPU"
    if settings.spark.task_gpus < 1:
        claim_share(names, settings.spark.task_gpus)
    return names, ""


def _names(addresses: Sequence[str]) -> str:
    """GPUs as torch calls them in this process, as a device setting.

    Raises:
        PipelineError: `device-not-found` for a part of a GPU (MIG) other than the one that this process has.
    """
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if all(address in visible for address in addresses):
        return ",".join(f"cuda:{visible.index(address)}" for address in addresses)
    if not visible and all(address.isdigit() for address in addresses):
        return ",".join(f"cuda:{address}" for address in addresses)
    from imaging_pipeline.segment.device import is_cuda_in_use

    if is_cuda_in_use():
        raise PipelineError(
            Code.DEVICE_NOT_FOUND,
            f"GPU {', '.join(addresses)} is dealt to a process that sees {', '.join(visible) or 'others'} only",
            "parts of GPUs (MIG) need a process each: set spark.python.worker.reuse to false in spark.conf",
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(addresses)
    return ",".join(f"cuda:{number}" for number in range(len(addresses)))
