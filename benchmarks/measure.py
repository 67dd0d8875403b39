"""Wall seconds and memory of a program in a process of its own."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent

_SAMPLE_SECONDS = 0.5  # one look at 1 GiB takes the kernel some 10 ms
_TAIL_CHARACTERS = 2000


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
    """

    seconds: float
    peak_rss_mb: float


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
    return Measurement(seconds=seconds, peak_rss_mb=sampler.peak_kb / 1024)


class _Sampler(threading.Thread):
    """Watches the memory of a session: all that a command started, wherever its parents went."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.peak_kb = 0
        self._session = session
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self.peak_kb = max(self.peak_kb, sum(_resident_kb(pid) for pid in _members(self._session)))

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


def _resident_kb(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
