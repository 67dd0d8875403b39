"""Sending beside the work on series: a thread of its own, which no PACS can make anybody else wait for."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from imaging_pipeline.delivery import BATCH, Delivered, Delivery, Item
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import SeriesResult

_LONGEST_PAUSE_SECONDS = 60.0
_LOOK_SECONDS = 0.2
_RECEIPTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """An object that is not where it should be, and why; without a path, why nobody can say which."""

    path: str
    code: Code
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """How far sending has come.

    Attributes:
        destination: Where to.
        n_sent: Objects that arrived by this process.
        n_there: Objects that had arrived before.
        n_waiting: Objects that have not been tried.
        unsent: Objects that were tried and did not arrive.
        falls_short: Something is not where it should be, and this process sends no more.
    """

    destination: str
    n_sent: int
    n_there: int
    n_waiting: int
    unsent: tuple[Unsent, ...]
    falls_short: bool


class NoOutbox:
    """Where nothing is to be sent."""

    def put(self, receipts: Iterable[SeriesResult]) -> None:
        """Leave them in RESULTS."""

    def put_finished(self, series_keys: Iterable[str], model: str) -> None:
        """Leave them in RESULTS."""

    def settle(self) -> None:
        """There is nothing to say."""


class Outbox:
    """Takes receipts as they are written, and sends their objects.

    A destination that does not answer is tried again, after pauses that grow, as long as there is other work to do; at
    the end `send.tries` times in all.
    """

    def __init__(self, delivery: Delivery, *, stopping: Callable[[], bool], beside: bool = False) -> None:
        """Start nothing yet.

        Args:
            delivery: Sends batches.
            stopping: Asked before each object; once it is true nothing further is begun.
            beside: Passes do not wait for it.
        """
        self._delivery = delivery
        self._stopping = stopping
        self._beside = beside
        self._incoming: deque[Iterator[SeriesResult]] = deque()
        self._pending: dict[str, Item] = {}
        self._errors: dict[str, PipelineError] = {}
        self._failed: dict[str, Item] = {}
        self._sent: set[str] = set()
        self._there: set[str] = set()
        self._trouble: PipelineError | None = None
        self._lost: list[PipelineError] = []
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)

    @contextmanager
    def open(self) -> Iterator["Outbox"]:
        """Send from another thread until the block ends, and then what is left."""
        self._thread.start()
        try:
            yield self
        except BaseException:
            self._close()  # it goes through what it has, and nobody waits
            raise
        self._finish()

    def put(self, receipts: Iterable[SeriesResult]) -> None:
        """Send the objects of these receipts too; they are gone through by the other thread."""
        with self._change:
            self._incoming.append(iter(receipts))
            self._change.notify_all()

    def put_finished(self, series_keys: Iterable[str], model: str) -> None:
        """Send the objects of series that were finished before, where the destination has not got them."""
        self.put(self._delivery.receipts_of(series_keys, model))

    def settle(self) -> Dispatch:
        """How far it has come, once there is nothing more to come; for one that works beside, at this moment."""
        if not self._beside:
            self._finish()
        return self.dispatch()

    def dispatch(self) -> Dispatch:
        """How far it has come at this moment."""
        with self._change:
            missing = {**self._failed, **self._pending}
            unsent = [_unsent(item.path, self._errors[key]) for key, item in missing.items() if key in self._errors]
            troubles = [*self._lost, *filter(None, [self._trouble])]
            unsent += [_unsent("", trouble) for trouble in troubles]
            return Dispatch(
                destination=self._delivery.destination,
                n_sent=len(self._sent),
                n_there=len(self._there - self._sent),
                n_waiting=len(self._pending.keys() - self._errors.keys()),
                unsent=tuple(sorted(unsent, key=lambda item: item.path)),
                falls_short=not self._thread.is_alive() and bool(missing or self._incoming or troubles),
            )

    def _close(self) -> None:
        with self._change:
            self._closing = True
            self._change.notify_all()

    def _finish(self) -> None:
        self._close()
        self._thread.join()

    def _work(self) -> None:
        n_failures = 0
        while True:
            self._wait(n_failures)
            n_failures = n_failures + 1 if self._is_worth_another() else 0
            with self._change:
                is_enough = not n_failures or n_failures >= self._delivery.settings.tries
                is_through = not self._incoming or self._trouble is not None
                if self._stopping() or (self._closing and is_enough and is_through):
                    return

    def _wait(self, n_failures: int) -> None:
        """Until there is something to do; after failures, until it is time for another try, or for the last one."""
        settings = self._delivery.settings
        pause = min(settings.pause_seconds * 2.0 ** (n_failures - 1), _LONGEST_PAUSE_SECONDS)
        until = time.monotonic() + pause
        with self._change:
            while not self._stopping():
                if n_failures:
                    is_due = time.monotonic() >= until or (self._closing and n_failures >= settings.tries)
                else:
                    is_due = bool(self._incoming) or self._closing
                if is_due:
                    return
                self._change.wait(_LOOK_SECONDS)

    def _is_worth_another(self) -> bool:
        """Go through what has come in and send what is pending; whether some of it may go a little later."""
        try:
            self._take()
            return self._try()
        except (OSError, PipelineError) as error:  # RESULTS cannot be read
            hint = "see to the store or the network; what is left goes with the next run"
            self._say(PipelineError(Code.STORE_UNREACHABLE, str(error), hint))
            return True
        except Exception as error:  # a fault here is none of the series'
            logging.getLogger(__name__).exception("sending")
            message = f"sending broke off: {type(error).__name__}: {error}"
            with self._change:
                self._lost.append(PipelineError(Code.INTERNAL_ERROR, message, "please report it with the run's log"))
                self._incoming.clear()
                self._failed |= self._pending
                self._pending.clear()
            return False

    def _say(self, trouble: PipelineError | None) -> None:
        with self._change:
            self._trouble = trouble
        if trouble is not None:
            logging.getLogger(__name__).warning("%s", trouble)

    def _take(self) -> None:
        """Look through the receipts that have come in."""
        self._delivery.look()
        self._say(None)
        while self._incoming and not self._stopping():
            some = self._next()
            items, there = self._delivery.missing(some)
            with self._change:
                if not some:
                    self._incoming.popleft()
                self._there |= there
                for item in items:
                    self._pending[item.digest] = item
                    self._failed.pop(item.digest, None)
                    self._errors.pop(item.digest, None)

    def _next(self) -> list[SeriesResult]:
        """The next receipts; none where there are no more, or they cannot be read."""
        try:
            return list(islice(self._incoming[0], _RECEIPTS_AT_ONCE))
        except PipelineError as error:
            with self._change:
                self._lost.append(error)
            return []

    def _try(self) -> bool:
        """Send what is pending; whether any of it is worth another try."""
        queue = deque(sorted(self._pending.values(), key=lambda item: item.path))
        while queue and not self._stopping():
            batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
            for delivered in self._delivery.send(batch, self._stopping):
                self._settle(delivered)
                if delivered.is_of_all:
                    queue.clear()
                    for item in list(self._pending.values()):
                        self._settle(Delivered(item=item, error=delivered.error))
        return bool(self._pending)

    def _settle(self, delivered: Delivered) -> None:
        key, error = delivered.item.digest, delivered.error
        with self._change:
            if error is None:
                self._pending.pop(key, None)
                self._errors.pop(key, None)
                (self._sent if delivered.item.stored is None else self._there).add(key)
                return
            is_news = str(self._errors.get(key)) != str(error)
            self._errors[key] = error
            if not delivered.is_passing:
                self._pending.pop(key, None)
                self._failed[key] = delivered.item
        if is_news:
            logging.getLogger(__name__).warning("%s is not sent: %s", delivered.item.path, error)


def _unsent(path: str, error: PipelineError) -> Unsent:
    return Unsent(path=path, code=error.code, message=error.message, hint=error.hint)
