"""metrics.prom: the metrics as a file, whole or not there, for node_exporter's textfile collector."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile

from imaging_pipeline.monitoring.observer import Observer
from imaging_pipeline.stores import Store
from imaging_pipeline.tally import Tally

PATH = "metrics.prom"
"""Relative to RESULTS."""


class Textfile(Observer):
    """Writes the file every so often, and when something has ended."""

    def __init__(self, registry: CollectorRegistry, out: Store, copy: Path | None) -> None:
        """Write nothing yet.

        Args:
            registry: What is written.
            out: RESULTS.
            copy: A second place for the file.
        """
        self._registry = registry
        self._out = out
        self._copy = copy
        self._change = threading.Event()
        self._closing = False

    @contextmanager
    def kept_up(self, seconds: float) -> Iterator[None]:
        """Write it from another thread until the block ends, and then once more.

        Args:
            seconds: Longest time between two.
        """
        thread = threading.Thread(target=self._work, args=(seconds,), name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._closing = True
            self._change.set()
            thread.join()

    def ended(self, tally: Tally, exit_code: int) -> None:  # noqa: ARG002 the figures tell it
        """See `Observer`."""
        self._change.set()

    def broke_off(self, exit_code: int) -> None:  # noqa: ARG002 the figures tell it
        """See `Observer`."""
        self._change.set()

    def _work(self, seconds: float) -> None:
        is_last = False
        while not is_last:
            self._change.wait(seconds)
            self._change.clear()
            is_last = self._closing
            self._write()

    def _write(self) -> None:
        try:
            self._out.publish(PATH, generate_latest(self._registry))
            if self._copy is not None:
                write_to_textfile(str(self._copy), self._registry)
        except Exception:  # no figure is worth a run
            logging.getLogger(__name__).warning("metrics cannot be written", exc_info=True)
