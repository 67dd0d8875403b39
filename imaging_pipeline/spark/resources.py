"""What a task of the inference stage gets: cores, and GPUs that no other task has unless they are shared on purpose.

The stage of headers asks for one core a task and no GPU, so it uses all cores. Inference asks for more by a profile of
its own, which Spark honours on clusters. Local masters know no profiles: there, as many tasks run as there are seats,
and a broker deals the GPUs.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pyspark import SparkContext, TaskContext
from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests

from imaging_pipeline.job import Job
from imaging_pipeline.segment.seat import DEALT, Place
from imaging_pipeline.settings import Settings, SparkSettings
from imaging_pipeline.spark.broker import Seat, discover, share_out, take_seat
from imaging_pipeline.spark.executors import executor_room, is_local

_PATIENCE_SECONDS = 120
"""A seat is taken at most as long as Spark takes to end the task that had it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seating:
    """What tasks need to know to find their seat; travels with them.

    Attributes:
        seats: GPUs that the broker deals; empty where Spark deals them, or nobody.
        folder: Locks of the seats.
        cores: Cores of one task; None: what Spark says.
    """

    seats: tuple[Seat, ...] = ()
    folder: Path = Path()
    cores: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How a stage of tasks is dealt out.

    Attributes:
        n_tasks: Tasks at a time, over all machines.
        n_slots: Cores of all machines.
        profile: What Spark gives each task; None: one core.
        seating: What a task finds out for itself.
        scratch: Holds the locks as long as the stage is in use.
    """

    n_tasks: int
    n_slots: int
    profile: ResourceProfile | None = None
    seating: Seating = field(default_factory=Seating)
    scratch: "tempfile.TemporaryDirectory[str] | None" = None

    def bins_per_slot(self, settings: SparkSettings) -> int:
        """Partitions of series for each task at a time: several, so that stragglers are short.

        Where Spark would run more tasks at a time than there are seats, there is one a seat: a task that waits for
        another would hold a model of its own.
        """
        held_back = self.profile is None and self.n_tasks < self.n_slots
        return 1 if held_back else settings.bins_per_slot

    @contextlib.contextmanager
    def workers(self, context: SparkContext) -> Iterator[None]:
        """Workers of their own for the tasks that are defined within.

        Spark hands out idle workers in turn. Where fewer tasks run at a time than there are workers from the stage of
        headers, each of these would come to open the model and to hold memory on every GPU. Workers are told apart by
        their environment, and so those of this stage are as many as its tasks.
        """
        if self.profile is None and not self.seating.seats and self.n_tasks == self.n_slots:
            yield
            return
        before = dict(context.environment)
        context.environment.update(_environment(self.seating.cores or 1))
        try:
            yield
        finally:
            context.environment.clear()
            context.environment.update(before)


def plain_stage(context: SparkContext) -> Stage:
    """One task a core, without GPUs."""
    return Stage(n_tasks=context.defaultParallelism, n_slots=context.defaultParallelism)


def inference_stage(context: SparkContext, settings: Settings) -> Stage:
    """How inference is dealt out in a session; on clusters once its executors are there.

    Raises:
        PipelineError: `settings-invalid` where a task wants more than an executor has, `device-not-found` where the
            discovery script fails.
    """
    if is_local(str(context.master)):
        return _on_this_machine(context.defaultParallelism, settings)
    return _on_cluster(context, settings)


def _on_this_machine(n_slots: int, settings: Settings) -> Stage:
    wanted, seats = settings.spark, _seats_here(settings)
    n_tasks = min(len(seats), n_slots) if seats else max(n_slots // max(wanted.task_cpus, 1), 1)
    scratch = tempfile.TemporaryDirectory(prefix="imaging-pipeline-gpus-") if seats else None
    folder = Path(scratch.name) if scratch is not None else Path()
    seating = Seating(seats=seats, folder=folder, cores=n_slots // n_tasks)
    return Stage(n_tasks=n_tasks, n_slots=n_slots, seating=seating, scratch=scratch)


def _seats_here(settings: Settings) -> tuple[Seat, ...]:
    """Seats at the GPUs of this machine; none where the settings want no GPU."""
    wanted = settings.spark.task_gpus
    if settings.device not in DEALT or not wanted:
        return ()
    script = settings.spark.discovery_script
    return share_out(discover(script) if script.is_file() else _counted(), wanted)


def _counted() -> tuple[str, ...]:
    """Without a script (a wheel brings none) torch counts."""
    from imaging_pipeline.segment.device import cuda_devices

    return tuple(map(str, range(cuda_devices())))


def _on_cluster(context: SparkContext, settings: Settings) -> Stage:
    n_slots, conf = context.defaultParallelism, dict(context.getConf().getAll())
    n_executors = max(len(context._jsc.sc().statusTracker().getExecutorInfos()) - 1, 1)  # the driver is one of them
    room = executor_room(settings, int(conf.get("spark.executor.cores") or n_slots // n_executors), conf)
    n_tasks = room.n_tasks * n_executors
    if not room.by_gpus and room.task_cpus == room.default_cpus:
        return Stage(n_tasks=n_tasks, n_slots=n_tasks)
    requests = TaskResourceRequests().cpus(room.task_cpus)
    if room.by_gpus:
        requests.resource("gpu", settings.spark.task_gpus)
    profile = ResourceProfileBuilder().require(requests).build
    return Stage(n_tasks=n_tasks, n_slots=n_slots, profile=profile, seating=Seating(cores=room.task_cpus))


def _environment(cores: int) -> dict[str, str]:
    return {
        "IMAGING_PIPELINE_STAGE": "inference",
        "OMP_NUM_THREADS": str(cores),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as nvidia-smi numbers them; CUDA itself puts the fastest first
    }


@contextlib.contextmanager
def seated(job: Job, seating: Seating) -> Iterator[Place]:
    """Hold this task's place: the GPUs that Spark assigned, or those that the broker deals.

    Raises:
        PipelineError: `device-not-found`.
    """
    context = TaskContext.get()
    cores = seating.cores or (None if context is None else context.cpus())
    if job.bundle is None or job.settings.device not in DEALT:
        yield Place(cores=cores)
    elif seating.seats:
        with take_seat(seating.folder, seating.seats, _PATIENCE_SECONDS) as seat:
            yield Place(cores=cores, addresses=seat.addresses)
    else:
        yield Place(cores=cores, addresses=assigned(context))


def assigned(context: TaskContext | None) -> tuple[str, ...]:
    """GPUs that Spark assigned to a task."""
    found = {} if context is None else context.resources()
    return tuple(found["gpu"].addresses) if "gpu" in found else ()
