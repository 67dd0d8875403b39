"""What a measured process says of itself: the seconds of its work, and its memory before and at its peak."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Figures of one process.

    Attributes:
        work_seconds: Wall seconds of the work, neither the interpreter's start nor imports.
        cpu_seconds: Processor seconds of the same, which other work on the machine hardly moves.
        base_mb: Resident MiB when the work began: interpreter and libraries.
        peak_mb: Largest resident MiB of the process's life.
        refusal: Why the work was not done; empty where it was.
        parts: Name to seconds of a part of the work, or to a count.
    """

    work_seconds: float
    cpu_seconds: float
    base_mb: float
    peak_mb: float
    refusal: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Leave the figures for the benchmark."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_account(path: Path) -> Account:
    """Figures that a process has left."""
    return Account(**json.loads(path.read_text(encoding="utf-8")))


def account(work: Callable[[], _Made]) -> tuple[Account, _Made | None]:
    """Do a piece of work once; what it raises becomes its refusal, for a peer may not take every input."""
    base_mb = _status_mb("VmRSS")
    made, refusal = None, ""
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        made = work()
    except Exception as error:
        refusal = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    figures = Account(
        work_seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu_start,
        base_mb=base_mb,
        peak_mb=_status_mb("VmHWM"),
        refusal=refusal,
    )
    return figures, made


def _status_mb(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    return 0.0
