"""Wall seconds and memory of a program in a process of its own."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent

_SAMPLE_SECONDS = 0.5  # one look at 1 GiB takes the kernel some 10 ms
_TAIL_CHARACTERS = 2000
_TICKS = os.sysconf("SC_CLK_TCK")

DRIVER, DRIVER_JVM, EXECUTOR_JVMS, WORKERS = "driver", "driver_jvm", "executor_jvms", "workers"
"""Roles of processes: the command itself, its JVM, those of a cluster's executors, and all other that it started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to measure in a process of its own.

    Attributes:
        argv: Program and arguments.
        environment: Variables on top of those of this process.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of one command.

    Attributes:
        seconds: Wall seconds from start to exit.
        peak_rss_mb: Largest resident memory in MiB of the process and all that it started, the JVM and forked workers
            included; pages that several of them share count once (the kernel's proportional set size).
        peak_mb_of: Role to the largest that its processes held at once, in MiB; each at a time of its own.
        cpu_seconds_of: Role to processor seconds, which other work on the machine hardly moves; those of a process's
            last half second may be missing.
    """

    seconds: float
    peak_rss_mb: float
    peak_mb_of: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds_of: Mapping[str, float] = field(default_factory=dict)


def measure(command: Command) -> Measurement:
    """Run a command to its end in a session of its own; nothing that it started outlives it.

    Raises:
        RuntimeError: The command failed; the message holds the end of what it printed.
    """
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            cwd=ROOT,
            env={**os.environ, **command.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with _Sampler(process.pid) as sampler:
            code = process.wait()
            seconds = time.perf_counter() - start
        if code != 0:
            output.seek(0)
            tail = output.read().decode(errors="replace")[-_TAIL_CHARACTERS:]
            raise RuntimeError(f"{' '.join(command.argv)} ended with code {code}:\n{tail}")
    parts = {role: peak_kb / 1024 for role, peak_kb in sampler.peak_kb_of.items()}
    return Measurement(
        seconds=seconds,
        peak_rss_mb=sampler.peak_kb / 1024,
        peak_mb_of=parts,
        cpu_seconds_of=sampler.cpu_seconds_of(),
    )


class _Sampler(threading.Thread):
    """Watches the memory of a session: all that a command started, wherever its parents went."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.peak_kb = 0
        self.peak_kb_of: dict[str, int] = {}
        self._cpu_of: dict[int, tuple[str, float]] = {}
        self._session = session
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            held: Counter[str] = Counter()
            for pid in _members(self._session):
                role = self._role(pid)
                held[role] += _resident_kb(pid)
                self._cpu_of[pid] = (role, max(_cpu_seconds(pid), self._cpu_of.get(pid, ("", 0.0))[1]))
            self.peak_kb = max(self.peak_kb, held.total())
            for role, kilobytes in held.items():
                self.peak_kb_of[role] = max(self.peak_kb_of.get(role, 0), kilobytes)

    def cpu_seconds_of(self) -> dict[str, float]:
        """Role to processor seconds of all processes that were seen in it."""
        seconds: dict[str, float] = {}
        for role, spent in self._cpu_of.values():
            seconds[role] = seconds.get(role, 0.0) + spent
        return seconds

    def _role(self, pid: int) -> str:
        if pid == self._session:
            return DRIVER
        line = b""
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        if not line.partition(b"\0")[0].endswith(b"java"):
            return WORKERS
        return EXECUTOR_JVMS if b"CoarseGrainedExecutorBackend" in line else DRIVER_JVM

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        for pid in _members(self._session):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _members(session: int) -> list[int]:
    members = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                members += [int(name)] if os.getsid(int(name)) == session else []
    return members


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process's threads, living and ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def _resident_kb(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
