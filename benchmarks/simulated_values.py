"""What a simulation is told and what it tells: work, cluster, outcome."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

GPU, READ, DECODE, WRITER, LAUNCH, DRAIN, RESTART, IDLE = (
    "gpu", "read", "decode", "writer", "launch", "drain", "restart", "idle",
)  # fmt: skip
STATES = (GPU, READ, DECODE, WRITER, DRAIN, LAUNCH, RESTART, IDLE)
"""What a slot's GPU does: works; waits for storage, for decoding, for the writer; its task's last mask is written; its
next task starts; its executor starts anew; there is no task left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one study asks of a slot and of the storage.

    Attributes:
        mb: Megabytes to move.
        decode_s: Seconds of the thread that works ahead, without the bytes' own time.
        gpu_s: Seconds of the GPU and its thread.
        write_s: Seconds of the thread that works behind, receipt included.
    """

    mb: float
    decode_s: float
    gpu_s: float
    write_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Slots, storage, and what goes wrong.

    Attributes:
        slots: GPUs, each with one task.
        storage_mb_s: Of all readers together.
        stream_mb_s: Of one reader at most.
        launch_s: Seconds of the driver for each task, one after the other.
        task_s: Seconds of a slot from a task's launch to its first study.
        open_s: Seconds to open the model, once for each start of an executor.
        failures_per_hour: Of one slot: its executor dies with all that is not written yet.
        restart_s: Until a dead executor is back.
        max_failures: Tries of one task before it is given up.
        slow_share: Share of slots that are slower for the whole run.
        slow_factor: How many times longer everything takes there.
        noise: Spread of a study's seconds, log-normal.
    """

    slots: int
    storage_mb_s: float = math.inf
    stream_mb_s: float = math.inf
    launch_s: float = 0.0
    task_s: float = 0.0
    open_s: float = 0.0
    failures_per_hour: float = 0.0
    restart_s: float = 60.0
    max_failures: int = 3
    slow_share: float = 0.0
    slow_factor: float = 2.0
    noise: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run went.

    Attributes:
        makespan_s: Until the last study is written.
        finished_s: When each study was written, in order of time.
        done: Times that each study was written, by bin and place in it.
        slot_s: Seconds of all slots by what they did.
        moved_mb: Megabytes read, those of lost tries included.
        retries: Tasks that ran once more.
        given_up: Studies of tasks that failed too often.
    """

    makespan_s: float
    finished_s: Sequence[float]
    done: Counter[tuple[int, int]]
    slot_s: Counter[str]
    moved_mb: float
    retries: int
    given_up: int
