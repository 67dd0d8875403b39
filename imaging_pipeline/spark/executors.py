"""What an executor of a cluster has, and how many tasks of the inference stage fit into it."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.seat import DEALT
from imaging_pipeline.settings import Settings, SparkSettings
from imaging_pipeline.spark.broker import tasks_per_gpu

_WORKER_MB = 900
"""What a Python worker takes with torch, MONAI and an open model: 850 MiB were measured on the smallest volumes."""

_LOCAL_CLUSTER = re.compile(r"local-cluster\[\s*(?P<workers>\d+)\s*,\s*(?P<cores>\d+)\s*,\s*\d+\s*\]")

_JVM_SHARE, _JVM_LEAST_MB = 0.1, 384
"""Spark's own overhead of the heap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How inference fits into one executor.

    Attributes:
        task_cpus: Cores of a task.
        default_cpus: Those of a task of any other stage.
        by_gpus: Tasks that its GPUs serve at a time; 0 where they ask for none.
        n_tasks: Tasks at a time.
    """

    task_cpus: int
    default_cpus: int
    by_gpus: int
    n_tasks: int


def is_local(master: str) -> bool:
    """Whether tasks run in the driver's process: no executors, no profiles."""
    return master == "local" or master.startswith("local[")


def is_on_this_machine(master: str) -> bool:
    """Whether executors, if there are any, see the driver's files under the same names."""
    return is_local(master) or master.startswith("local-cluster[")


def executor_room(settings: Settings, cores: int, conf: Mapping[str, str]) -> Room:
    """How inference fits into an executor of so many cores.

    Args:
        settings: What a task asks for.
        cores: Cores of the executor.
        conf: Properties of the session.

    Raises:
        PipelineError: `settings-invalid` where not even one task fits.
    """
    wanted, default = settings.spark, int(conf.get("spark.task.cpus") or 1)
    by_gpus = _tasks_by_gpus(wanted) if _uses_gpus(settings) else 0
    task_cpus = wanted.task_cpus or (max(cores // by_gpus, 1) if by_gpus else default)
    if task_cpus > cores:
        raise PipelineError(
            Code.SETTINGS_INVALID,
            f"spark.task_cpus = {task_cpus}, an executor has {cores} cores",
            "raise spark.executor.cores in spark.conf, or ask for fewer",
        )
    n_tasks = min(cores // task_cpus, by_gpus or cores)
    return Room(task_cpus=task_cpus, default_cpus=default, by_gpus=by_gpus, n_tasks=n_tasks)


def start_properties(master: str) -> dict[str, str]:
    """Makes the first job of a local cluster wait for all executors: series are dealt by those that are there."""
    size = _LOCAL_CLUSTER.fullmatch(master)
    if size is None:
        return {}
    return {
        "spark.cores.max": str(int(size["workers"]) * int(size["cores"])),  # standalone masters wait for so many
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
    }


def gpu_properties(master: str, settings: Settings) -> dict[str, str]:
    """What makes a cluster find its GPUs. Tasks of other stages take none: they would wait for each other."""
    if is_local(master) or not _uses_gpus(settings):
        return {}
    found = {"amount": str(settings.spark.executor_gpus), "discoveryScript": str(settings.spark.discovery_script)}
    owners = ("executor", "worker") if master.startswith("local-cluster[") else ("executor",)
    properties = {f"spark.{owner}.resource.gpu.{key}": value for owner in owners for key, value in found.items()}
    if master.startswith("k8s://"):
        properties["spark.executor.resource.gpu.vendor"] = "nvidia.com"
    return properties


def memory_overhead(master: str, settings: Settings, bundle: Bundle, conf: Mapping[str, str]) -> dict[str, str]:
    """Memory of an executor beside its heap, where the Python workers live: Spark's tenth of the heap is too little.

    Args:
        master: The cluster.
        settings: What a task asks for.
        bundle: The model.
        conf: Properties that were set already; where they set this one, nothing is said.

    Raises:
        PipelineError: What opening the model raises.
    """
    if conf.keys() & {"spark.executor.memoryOverhead", "spark.executor.memoryOverheadFactor"}:
        return {}
    from imaging_pipeline.segment.estimate import task_bytes

    room = executor_room(settings, _cores_asked_for(master, conf), conf)
    shape = settings.spark.largest_volume
    task_mb = task_bytes(bundle, settings, shape) >> 20
    jvm_mb = max(int(_mebibytes(conf.get("spark.executor.memory", "1g")) * _JVM_SHARE), _JVM_LEAST_MB)
    total_mb = room.n_tasks * (task_mb + _WORKER_MB) + jvm_mb
    logging.getLogger(__name__).info(
        "spark.executor.memoryOverhead=%dm: %d tasks of %d MiB for %d x %d x %d voxels and %d MiB for their process, "
        "%d MiB for the JVM",
        *(total_mb, room.n_tasks, task_mb, *shape, _WORKER_MB, jvm_mb),
    )
    return {"spark.executor.memoryOverhead": f"{total_mb}m"}


def _cores_asked_for(master: str, conf: Mapping[str, str]) -> int:
    """Cores of an executor before there is one: YARN and Kubernetes give one unless told otherwise."""
    local = _LOCAL_CLUSTER.fullmatch(master)
    return int(conf.get("spark.executor.cores") or (local["cores"] if local else 1))


def _mebibytes(text: str) -> int:
    """A size as Spark writes it; without a unit MiB."""
    size = re.fullmatch(r"(\d+)([kmgt]?)b?", text.strip().lower())
    if size is None:
        raise PipelineError(
            Code.SETTINGS_INVALID, f"spark.executor.memory = {text!r} is no size", "write it as 4g or 4096m"
        )
    return int(size.group(1)) * {"k": 1, "": 1024, "m": 1024, "g": 1024**2, "t": 1024**3}[size.group(2)] // 1024


def _uses_gpus(settings: Settings) -> bool:
    return bool(settings.spark.executor_gpus and settings.spark.task_gpus) and settings.device in DEALT


def _tasks_by_gpus(wanted: SparkSettings) -> int:
    if wanted.task_gpus > wanted.executor_gpus:
        raise PipelineError(
            Code.SETTINGS_INVALID,
            f"spark.task_gpus = {wanted.task_gpus:g}, an executor has {wanted.executor_gpus}",
            "raise spark.executor_gpus, or ask for fewer",
        )
    if wanted.task_gpus < 1:
        return wanted.executor_gpus * tasks_per_gpu(wanted.task_gpus)
    return wanted.executor_gpus // int(wanted.task_gpus)
