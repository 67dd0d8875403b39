"""Deals the GPUs of one machine to processes by file locks, where Spark itself deals none: on local masters.

The kernel gives a lock back when its process ends, however it ends: nothing is left to clean up after a crash.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging_pipeline.errors import Code, PipelineError

_POLL_SECONDS = 0.1
_SCRIPT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What one task gets: whole GPUs, or a share of one.

    Attributes:
        addresses: GPUs, as the discovery script names them.
        number: Tells seats at the same GPU apart.
    """

    addresses: tuple[str, ...]
    number: int = 0

    @property
    def name(self) -> str:
        """Name of its lock."""
        safe = "+".join(address.replace("/", "_") for address in self.addresses)
        return f"gpu-{safe}.{self.number}"


def discover(script: Path) -> tuple[str, ...]:
    """GPUs of this machine, as Spark would find them.

    Args:
        script: Prints `{"name": "gpu", "addresses": ["0", "1"]}`.

    Raises:
        PipelineError: `device-not-found` where it fails or prints something else.
    """
    try:
        done = subprocess.run(
            [str(script)], capture_output=True, text=True, check=True, timeout=_SCRIPT_SECONDS, stdin=subprocess.DEVNULL
        )
        found = json.loads(done.stdout)
        return tuple(str(address) for address in found["addresses"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        said = " ".join((getattr(error, "stderr", None) or str(error)).split())[:200]
        raise PipelineError(
            Code.DEVICE_NOT_FOUND,
            f"{script} names no GPUs: {said}",
            'let spark.discovery_script print {"name": "gpu", "addresses": ["0"]}, or name a device by --device',
        ) from None


def share_out(addresses: Sequence[str], amount: float) -> tuple[Seat, ...]:
    """Seats for tasks that take so many GPUs each; those at different GPUs come first.

    Args:
        addresses: GPUs at hand.
        amount: Whole GPUs, or a share of one: 0.5 seats two tasks at each.
    """
    if amount >= 1:
        step = int(amount)
        starts = range(0, len(addresses) - step + 1, step)
        return tuple(Seat(addresses=tuple(addresses[start : start + step])) for start in starts)
    return tuple(Seat(addresses=(address,), number=n) for n in range(tasks_per_gpu(amount)) for address in addresses)


def tasks_per_gpu(amount: float) -> int:
    """Tasks that share one GPU, for an amount below one: as many as Spark would let."""
    return int(1 / amount + 1e-9)


@contextlib.contextmanager
def take_seat(folder: Path, seats: Sequence[Seat], patience_seconds: float) -> Iterator[Seat]:
    """Hold a seat that no other process holds.

    A process comes back to the seat that it had before, if it is free: the model is open on that GPU already.

    Args:
        folder: Where the locks are, on a local file system; the same for all who share the seats.
        seats: All seats.
        patience_seconds: How long to wait for one.

    Raises:
        PipelineError: `device-not-found` where none becomes free.
    """
    deadline = time.monotonic() + patience_seconds
    own = str(os.getpid())
    while True:
        for seat in sorted(seats, key=lambda seat: _last_holder(folder / seat.name) != own):
            lock = _try_lock(folder / seat.name, own)
            if lock is not None:
                try:
                    yield seat
                finally:
                    os.close(lock)
                return
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    holders = ", ".join(f"{seat.name} by process {_last_holder(folder / seat.name)}" for seat in seats)
    raise PipelineError(
        Code.DEVICE_NOT_FOUND,
        f"no GPU became free within {patience_seconds:.0f} s: {holders}",
        "end the process that holds it, or let fewer tasks run at a time",
    )


def _try_lock(path: Path, own: str) -> int | None:
    """A descriptor that holds the lock; None where another process does."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # not inherited by programs that the process starts
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    os.ftruncate(lock, 0)
    os.pwrite(lock, own.encode(), 0)
    return lock


def _last_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
