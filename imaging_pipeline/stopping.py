"""Signals that ask a run to end: what is at work is finished, nothing new is begun."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.job import Job

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether this process was asked to end by SIGTERM or Ctrl-C; a second Ctrl-C ends it at once.

    Workers are other processes, on a cluster on other machines: they see a marker file in RESULTS before each series.
    """

    def __init__(self, on_request: Callable[[], None]) -> None:
        """Nothing is asked for yet.

        Args:
            on_request: Called within the handler of the first signal.
        """
        self._on_request = on_request
        self._event = threading.Event()
        self._job: Job | None = None

    @property
    def requested(self) -> bool:
        """Whether it was."""
        return self._event.is_set()

    def ask(self) -> None:
        """Ask this process to end, as a signal would."""
        self._event.set()
        self._mark()

    def wait(self, seconds: float) -> bool:
        """Wait, but no longer than until it is asked for; whether it was."""
        return self._event.wait(seconds)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over; only the main thread of a program can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._request) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def marking(self, job: Job) -> Iterator[None]:
        """Make the marker of a run when asked to end, and remove it at last."""
        self._job = job
        if self.requested:
            self._mark()
        try:
            yield
        finally:
            self._job = None
            if self.requested:
                with suppress(OSError):
                    job.out.remove(job.stop_marker)

    def _request(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.ask()
        self._on_request()

    def _mark(self) -> None:
        if self._job is not None:
            with suppress(OSError, PipelineError):  # a full disk must not keep the process from ending
                self._job.out.publish(self._job.stop_marker, b"")
