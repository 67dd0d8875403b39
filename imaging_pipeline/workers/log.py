"""Where a process that works on series logs: a file of its own in RESULTS where logs are for machines."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.events import JsonLines
from imaging_pipeline.job import Job
from imaging_pipeline.logs import LogFile, log_to
from imaging_pipeline.results import layout

_NUMBERS = count(1)


@contextmanager
def logging_of(job: Job) -> Iterator[None]:
    """Log to RESULTS until the block ends, where the settings say json; as before otherwise.

    Two processes never write to one file, and a store gets it when the block ends. A log that cannot be written is no
    reason not to work.

    Args:
        job: The run.
    """
    if job.settings.logs.format == "text":
        yield
        return
    details, opened = job.settings.identity.error_details, ExitStack()
    handler: logging.Handler = logging.StreamHandler()
    with suppress(PipelineError, OSError):
        folder = opened.enter_context(job.out.on_disk(layout.LOGS))
        name = f"{job.run_id}.{socket.gethostname()}-{os.getpid()}-{next(_NUMBERS)}.jsonl"
        handler = LogFile(folder / name)
    log_to(handler, details=details, form=JsonLines(job.run_id, details=details))
    try:
        yield
    finally:
        log_to(logging.StreamHandler(), details=details)
        handler.close()
        with suppress(PipelineError, OSError):
            opened.close()
