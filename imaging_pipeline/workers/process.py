"""One process that works through series, as its supervisor sees it."""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any

from imaging_pipeline.workers.crash import Death, post_mortem
from imaging_pipeline.workers.watchdog import killed_by_kernel

_PATIENCE_SECONDS = 10


class EndedError(Exception):
    """The process does not answer any more."""


class Process:
    """A process that was started, and the connection to it."""

    def __init__(self, log: IO[bytes] | None) -> None:
        """Start it.

        Args:
            log: Where it writes what it has to say; None: standard error.
        """
        self._crash_log = tempfile.TemporaryFile(prefix="imaging-pipeline-crash-")  # noqa: SIM115 `close` closes it
        self._n_killed = killed_by_kernel()
        self._connection: Connection[Any, Any]
        self._connection, theirs = Pipe()
        with theirs:
            descriptors = theirs.fileno(), self._crash_log.fileno()
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "imaging_pipeline.workers.child", *map(str, descriptors)],
                stdin=subprocess.PIPE,  # its end tells the process that nobody listens any more
                stdout=log or sys.__stderr__,
                stderr=log,
                pass_fds=descriptors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )

    def send(self, request: object) -> None:
        """Say something to it.

        Raises:
            EndedError: It is gone.
        """
        try:
            self._connection.send(request)
        except OSError:
            raise EndedError from None

    def receive(self) -> bytes:
        """What it says next; waits for it.

        Raises:
            EndedError: It is gone.
        """
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            raise EndedError from None

    def bury(self) -> Death:
        """What is known of its end, once it does not answer any more."""
        code = self._wait()
        self._crash_log.seek(0)
        stack = self._crash_log.read().decode(errors="replace")
        self.close()
        return post_mortem(code, stack, killed_by_kernel() > self._n_killed)

    def close(self) -> None:
        """End it, if it has not ended."""
        assert self._popen.stdin is not None
        with suppress(OSError):
            self._connection.close()
            self._popen.stdin.close()
        self._wait()
        self._crash_log.close()

    def _wait(self) -> int:
        try:
            return self._popen.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()
