"""What a process can tell of itself: versions, host, memory, time."""

import resource
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from imaging_pipeline import __version__

_CONTROL_GROUP = Path("/sys/fs/cgroup")

_PACKAGES = ("torch", "monai", "pydicom", "numpy", "nibabel", "pyspark", "deltalake")


@cache
def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what decides over voxels."""
    return {"imaging_pipeline": __version__, "python": python_version(), **dict(_installed(_PACKAGES))}


def host_name() -> str:
    """Name of this machine."""
    return socket.gethostname()


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def reset_peak_rss() -> None:
    """Start counting resident memory anew, where the kernel lets a process do so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_rss_mb() -> float:
    """Largest resident memory of this process since `reset_peak_rss`, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def available_memory_bytes() -> int:
    """Memory that this process can still take: of the machine, or of its control group where that allows less."""
    free = _kilobytes(Path("/proc/meminfo"), "MemAvailable") * 1024 or sys.maxsize
    with suppress(OSError, ValueError, StopIteration):  # version 2; "max" where there is no limit
        limit, used = (int((_CONTROL_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (_CONTROL_GROUP / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        free = min(free, limit - used + cached)
    return max(free, 0)


def _kilobytes(path: Path, name: str) -> int:
    with suppress(OSError, StopIteration):
        return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))
    return 0


def _installed(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
