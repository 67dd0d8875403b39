"""What a process can tell of itself: versions, host, memory, time."""

import ctypes
import hashlib
import os
import pwd
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

import pyarrow as pa

from imaging_pipeline import __version__
from imaging_pipeline.records import RESULTS_SCHEMA

_CONTROL_GROUP = Path("/sys/fs/cgroup")

_MMAP_THRESHOLD, _LARGE_BYTES = -3, 1 << 16
"""M_MMAP_THRESHOLD of malloc.h, and what is a large piece."""

_PACKAGES = ("torch", "monai", "pydicom", "numpy", "nibabel", "pyspark", "deltalake")


@cache
def versions() -> dict[str, str]:
    """Versions of this package, of what its results hold, of Python and of what decides over voxels."""
    own = {"imaging_pipeline": __version__, "results_schema": str(RESULTS_SCHEMA), "python": python_version()}
    return {**own, **dict(_installed(_PACKAGES))}


def host_name() -> str:
    """Name of this machine."""
    return socket.gethostname()


@cache
def machine_tag() -> str:
    """Tells machines apart on which process numbers mean something else: hosts, their starts, containers."""
    parts = [host_name()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]


def process_began(number: int) -> float | None:
    """When a process of this machine began, in seconds since the epoch; 0 where nobody says, None where it is gone."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except (OSError, OverflowError):  # somebody else's
        pass
    try:
        ticks = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "btime" in line)
        return boot + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError, IndexError):
        return 0.0


def user_name() -> str:
    """Name of the user that this process runs as, by the system and not the environment; the number without one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


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


def total_memory_bytes() -> int:
    """Memory of the machine, or of its control group where that allows less; 0 where neither is known."""
    total = _kilobytes(Path("/proc/meminfo"), "MemTotal") * 1024
    with suppress(OSError, ValueError):
        total = min(total, int((_CONTROL_GROUP / "memory.max").read_text()))
    return total


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


def give_back_large_pieces() -> None:
    """Let whatever is freed in one large piece go back to the system at once, from now on, in this process alone.

    glibc would take ever larger pieces from its heap, which keeps them, once some have come and gone (mallopt(3)). It
    costs time where large arrays come and go all the time: nothing for a process that works on volumes.
    """
    with suppress(AttributeError, OSError):  # glibc has it
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back_memory() -> None:
    """Return to the system what allocators keep for another time, where a process has passed through a peak."""
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)
