"""What one series may take at most: seconds, by its size, and memory."""

import faulthandler
import resource
import threading
from pathlib import Path

from imaging_pipeline.host import total_memory_bytes
from imaging_pipeline.job import Job
from imaging_pipeline.records import SeriesTask

_MIRRORED = 8
"""Images that are averaged at most where a network is asked for mirror images too: three axes."""

_SHARE = 0.95
"""Of the machine's memory: beyond, the kernel would choose which process to end."""


def limit_seconds(task: SeriesTask, job: Job) -> float:
    """Longest time without a step in which a series may be at work; 0 for no limit."""
    limits = job.settings.limits
    if not limits.seconds:
        return 0.0
    networks = 1 if job.bundle is None else len(job.bundle.weights)
    times = networks * (_MIRRORED if job.settings.segment.tta else 1)
    return limits.seconds + limits.seconds_per_megavoxel * times * task.n_voxels / 1e6


class Watchdog:
    """Ends this process when no series in it has come a step further for longer than the largest of them may take.

    The timer is a thread of the interpreter's own that needs no lock of it: code that hangs within a library is ended
    too. What every thread was at is written down before.
    """

    def __init__(self, log: int) -> None:
        """Watch nothing yet.

        Args:
            log: Descriptor of the file for the stacks.
        """
        self._log = log
        self._limits: dict[str, float] = {}
        self._lock = threading.Lock()

    def begin(self, key: str, seconds: float) -> None:
        """A series is begun."""
        with self._lock:
            self._limits[key] = seconds
            self._arm()

    def end(self, key: str) -> None:
        """A series is finished."""
        with self._lock:
            self._limits.pop(key, None)
            self._arm()

    def rest(self) -> None:
        """Nothing is at work."""
        with self._lock:
            self._limits.clear()
            self._arm()

    def _arm(self) -> None:
        seconds = max(self._limits.values(), default=0.0)
        if seconds:
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._log)
        else:
            faulthandler.cancel_dump_traceback_later()


def limit_memory(job: Job) -> None:
    """Keep this process below what the settings allow: what asks for more gets a MemoryError, and fails alone.

    Processes that use CUDA are left alone: the driver maps far more than it takes.
    """
    if _uses_cuda(job):
        return
    limit = job.settings.limits.memory_mb << 20 or int(_SHARE * total_memory_bytes())
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if limit and (hard == resource.RLIM_INFINITY or limit < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def open_many_files() -> None:
    """Let this process open as many files as it may: archives, stores and pipes take some each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def killed_by_kernel() -> int:
    """How often the kernel has ended a process of this control group for want of memory; 0 where nobody counts."""
    try:
        lines = Path("/sys/fs/cgroup/memory.events").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except (OSError, StopIteration, ValueError):
        return 0


def _uses_cuda(job: Job) -> bool:
    if job.bundle is None or job.settings.device == "cpu":
        return False
    if job.settings.device != "auto":
        return "cuda" in job.settings.device
    from imaging_pipeline.segment.device import cuda_devices

    return cuda_devices() > 0
