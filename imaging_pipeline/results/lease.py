"""One run at a time on a RESULTS: a numbered lease with a heartbeat, on any store that makes a file only once.

Whoever makes `lock/<number>.json` with the next higher number holds RESULTS. A holder says every few seconds that it
lives; one that has fallen silent is overtaken by the next number, which only one can make. It sees that when it wakes
up, and stops. Ages are taken by the watcher's own clock, so clocks of different machines need not agree.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.host import host_name, machine_tag, now, process_began, user_name
from imaging_pipeline.results.layout import LOCK
from imaging_pipeline.settings import LockSettings
from imaging_pipeline.stores import Entry, Store

_POLL_SECONDS = 0.5
_SAME_SECONDS = 5.0
"""The kernel's word on when a process began moves with the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds RESULTS.

    Attributes:
        purpose: Command and run.
        machine: See `machine_tag`.
        began: When the process did, in seconds since the epoch; tells processes of one number apart.
        since: When it was taken, ISO 8601.
        beat: Counts signs of life.
        is_released: It was given back.
    """

    purpose: str
    user: str
    host: str
    pid: int
    machine: str
    began: float
    since: str
    beat: int = 0
    is_released: bool = False

    def __str__(self) -> str:
        return f"{self.purpose} by {self.user} on {self.host}, process {self.pid}, since {self.since}"

    @property
    def is_near(self) -> bool:
        """Whether this process would see it."""
        return self.machine == machine_tag()

    @property
    def is_dead(self) -> bool:
        """Whether it is known to have ended."""
        began = process_began(self.pid) if self.is_near else self.began
        return began is None or abs(began - self.began) > _SAME_SECONDS


class Lease:
    """A hold on RESULTS.

    Attributes:
        is_lost: Whether another run took it for dead and has taken over.
    """

    def __init__(self, out: Store, number: int, owner: Owner, settings: LockSettings) -> None:
        """Begin to say that it is held; `give_back` ends that.

        Args:
            out: RESULTS.
            number: Its number.
            owner: This process.
            settings: How often it says so.
        """
        self._out = out
        self._number = number
        self._owner = owner
        self._settings = settings
        self._ended = threading.Event()
        self._on_loss: Callable[[], None] = lambda: None
        self.is_lost = False
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)
        self._thread.start()

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have something called, in another thread, if it is lost."""
        self._on_loss = call

    def check(self) -> None:
        """See that it is still held.

        Raises:
            PipelineError: `results-busy`: it is not.
        """
        if self.is_lost:
            raise PipelineError(
                Code.RESULTS_BUSY,
                f"another run has taken {self._out} over: this one gave no sign of life for "
                f"{self._settings.stale_seconds:g} s",
                "let one of them end; raise lock.stale_seconds where machines stand still for so long",
            )

    def give_back(self) -> None:
        """Let the next run have it."""
        self._ended.set()
        self._thread.join()
        if not self.is_lost:
            with suppress(PipelineError):
                _write(self._out, self._number, replace(self._owner, is_released=True))

    def _live(self) -> None:
        while not self._ended.wait(self._settings.heartbeat_seconds):
            number = _highest(self._out)
            if number is not None and number > self._number:
                self.is_lost = True
                self._on_loss()
                return
            self._owner = replace(self._owner, beat=self._owner.beat + 1)
            with suppress(PipelineError):  # a full disk: the run itself says so
                _write(self._out, self._number, self._owner)


@contextmanager
def hold(out: Store, purpose: str, settings: LockSettings, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold RESULTS while the block runs; wait for another run as long as the settings allow.

    Args:
        out: RESULTS, prepared.
        purpose: Command and run, for others to read.
        settings: How long to wait, and when a run counts as dead.
        say: Told what is waited for.

    Raises:
        PipelineError: `results-busy` where another run lives on; `write-failed`.
    """
    lease = _taken(out, purpose, settings, say)
    try:
        yield lease
    finally:
        lease.give_back()


def _taken(out: Store, purpose: str, settings: LockSettings, say: Callable[[str], None]) -> Lease:
    watched, is_told = _Watched(), False
    deadline = time.monotonic() + settings.wait_seconds
    while True:
        number = _highest(out) or 0
        other = _read(out, number)
        if (
            other is None
            or other.is_released
            or other.is_dead
            or watched.silence(number, other) > settings.stale_seconds
        ):
            owner = _this_process(purpose)
            if out.create(_path(number + 1), _dump(owner)):
                _sweep(out, number)
                return Lease(out, number + 1, owner, settings)
            continue
        if time.monotonic() >= deadline and (other.is_near or watched.has_beaten):
            raise PipelineError(
                Code.RESULTS_BUSY,
                f"{out} is held: {other}",
                "wait for it to end, or let this run wait: --set lock.wait_seconds=3600",
            )
        if not is_told:
            say(f"waiting: held by {other}")
            is_told = True
        time.sleep(min(_POLL_SECONDS, settings.heartbeat_seconds))


class _Watched:
    """What a watcher has seen of a holder, who may be on another machine.

    Attributes:
        has_beaten: It lives, or lived a moment ago.
    """

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._since = time.monotonic()
        self.has_beaten = False

    def silence(self, number: int, owner: Owner) -> float:
        """Seconds since it gave a sign of life, or since it was first seen."""
        if self._seen != (number, owner.beat):
            self.has_beaten = self._seen is not None
            self._seen, self._since = (number, owner.beat), time.monotonic()
        return time.monotonic() - self._since


def _this_process(purpose: str) -> Owner:
    pid = os.getpid()
    return Owner(
        purpose=purpose,
        user=user_name(),
        host=host_name(),
        pid=pid,
        machine=machine_tag(),
        began=process_began(pid) or 0.0,
        since=now(),
    )


def _highest(out: Store) -> int | None:
    try:
        numbers = [int(entry.path.rpartition("/")[2].removesuffix(".json")) for entry in _entries(out)]
    except OSError:
        return None
    return max(numbers, default=None)


def _entries(out: Store) -> list[Entry]:
    return [entry for entry in out.list(LOCK) if entry.path.rpartition("/")[2].removesuffix(".json").isdigit()]


def _sweep(out: Store, number: int) -> None:
    """Leases that were overtaken are of no use: the one before stays until the next, for a holder that wakes up."""
    with suppress(OSError):
        for entry in _entries(out):
            if int(entry.path.rpartition("/")[2].removesuffix(".json")) < number:
                out.remove(entry.path)


def _path(number: int) -> str:
    return f"{LOCK}/{number:08}.json"


def _read(out: Store, number: int) -> Owner | None:
    try:
        return Owner(**json.loads(out.read(_path(number))))
    except (OSError, ValueError, TypeError):
        return None


def _write(out: Store, number: int, owner: Owner) -> None:
    out.publish(_path(number), _dump(owner))


def _dump(owner: Owner) -> bytes:
    return json.dumps(asdict(owner), indent=2).encode() + b"\n"
