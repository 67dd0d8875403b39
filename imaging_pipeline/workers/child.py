"""The process in which series are worked through: `python -m imaging_pipeline.workers.child`, started by a supervisor.

It ends with its supervisor, whose end closes its standard input.
"""

import faulthandler
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.logs import log_to, name_of, trace_of
from imaging_pipeline.partition import check_model, process
from imaging_pipeline.records import SeriesTask
from imaging_pipeline.rows import pack, unpack
from imaging_pipeline.segment import seat
from imaging_pipeline.segment.lean import import_monai
from imaging_pipeline.sources import Contents, Opener
from imaging_pipeline.workers.log import logging_of
from imaging_pipeline.workers.messages import Answer, Check, End, Prepare, Series, Work
from imaging_pipeline.workers.watchdog import Watchdog, limit_memory, limit_seconds, open_many_files


def main(descriptor: int, crash_log: int) -> None:
    """Serve a supervisor until it is gone.

    Args:
        descriptor: Of the connection to it.
        crash_log: Of the file for stacks of a crash.
    """
    faulthandler.enable(crash_log)
    for number in (signal.SIGINT, signal.SIGTERM):  # the supervisor is asked to stop, and ends this process by itself
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_supervisor, name="life-line", daemon=True).start()
    log_to(logging.StreamHandler())
    open_many_files()
    _Child(Connection(descriptor), Watchdog(crash_log)).serve()


class _Child:
    def __init__(self, connection: Connection, watchdog: Watchdog) -> None:
        self._connection = connection
        self._watchdog = watchdog
        self._lock = threading.Lock()

    def serve(self) -> None:
        while True:
            try:
                request = self._connection.recv()
            except EOFError:
                return
            if isinstance(request, Prepare):
                _load(with_network=request.with_network)
            else:
                self._answer(request)

    def _answer(self, request: Check | Work) -> None:
        log_to(logging.StreamHandler(), details=request.job.settings.identity.error_details)
        with logging_of(request.job):
            answer, content = self._tried(request)
        self._say(answer, content)  # the last of it: whoever has it may end this process
        self._watchdog.rest()

    def _tried(self, request: Check | Work) -> tuple[Answer, bytes]:
        try:
            _load(with_network=request.job.bundle is not None)
            if isinstance(request, Check):
                self._check(request)
            else:
                self._work(request)
        except PipelineError as error:
            said = {"code": error.code, "message": error.message, "hint": error.hint}
            return Answer.ERROR, json.dumps(said).encode()
        except Exception as error:
            details = request.job.settings.identity.error_details
            logging.getLogger(__name__).error("a worker's fault: %s", trace_of(error, details=details))  # noqa: TRY400
            return Answer.FAULT, name_of(error).encode()
        return Answer.OVER, b""

    def _check(self, request: Check) -> None:
        settings, note = seat.take(request.place, request.job.settings)
        job = request.job.with_settings(settings)
        for line in (note, *check_model(job, request.place.cores)):
            if line:
                self._say(Answer.NOTE, line.encode())
        seat.leave(request.place)

    def _work(self, request: Work) -> None:
        settings, _ = seat.take(request.place, request.job.settings)
        job, contents = request.job.with_settings(settings), Contents(Opener(settings.storage))
        limit_memory(job)

        def arriving() -> Iterator[SeriesTask]:
            while True:
                self._say(Answer.NEXT)
                answer: Series | End = self._connection.recv()
                contents.clear()
                if isinstance(answer, End):
                    return
                for path, content in answer.contents.items():
                    contents.put(path, content)
                for task in unpack(SeriesTask, answer.task):
                    self._watchdog.begin(task.identity.series_key, limit_seconds(task, job))
                    yield task

        for result in process(arriving(), job, request.place.cores, contents):
            self._watchdog.end(result.identity.series_key)
            self._say(Answer.RESULT, pack([result]))
        seat.leave(request.place)

    def _say(self, answer: Answer, content: bytes = b"") -> None:
        with self._lock:
            self._connection.send_bytes(answer.value + content)


def _load(*, with_network: bool) -> None:
    if with_network:
        import_monai()
        importlib.import_module("imaging_pipeline.segment.engine")


def _end_with_supervisor() -> None:
    os.read(0, 1)  # by the system call: a buffer's lock that is held here aborts the interpreter at its end
    os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
