"""A log as lines of JSON, one an event, in the field names of the Elastic Common Schema.

What it says is what the text says, as discreet; no field holds anything that a DICOM says. `about` tells which series
and stage everything that is logged below it belongs to.
"""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from imaging_pipeline import __version__
from imaging_pipeline.errors import PipelineError
from imaging_pipeline.logs import said_by, trace_of

SERVICE = "imaging_pipeline"

ALWAYS = tuple("@timestamp log.level log.logger message host.name process.pid".split())
ALWAYS += ("service.name", "service.version", "imaging.run_id")
"""Fields that every line has."""

SOMETIMES = tuple(f"imaging.{name}" for name in "series_key stage status code seconds exit_code".split())
SOMETIMES += ("error.type", "error.stack_trace")
"""Fields of what concerns a series, of the end of a run, and of errors."""

_ABOUT: ContextVar[dict[str, Any]] = ContextVar("about", default={})  # noqa: B039 it is never changed, only replaced


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """What is logged by this thread in the block has these fields.

    Args:
        fields: Names of `SOMETIMES` without `imaging.`, or run_id.
    """
    token = _ABOUT.set({**_ABOUT.get(), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def event(message: str, **fields: Any) -> None:
    """Log something that only machines read: where logs are text, nothing is written.

    Args:
        message: In words that name no series.
        fields: See `about`.
    """
    logging.getLogger(__name__).info(message, extra={"imaging": fields})


class JsonLines(logging.Formatter):
    """One JSON object a record."""

    def __init__(self, run_id: str, *, details: bool = False) -> None:
        """Take what all lines have in common.

        Args:
            run_id: Of records that say nothing else.
            details: Texts of errors and warnings of libraries are written too.
        """
        super().__init__()
        self._details = details
        self._common = {"service.name": SERVICE, "service.version": __version__, "host.name": socket.gethostname()}
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        """See logging's `Formatter`."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "@timestamp": time.replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": said_by(record, details=self._details),
            "log.logger": record.name,
            **self._common,
            "process.pid": record.process or os.getpid(),
            "imaging.run_id": self._run_id,
            **self._error(record),
        }
        fields = {**_ABOUT.get(), **getattr(record, "imaging", {})}
        line |= {f"imaging.{name}": value for name, value in fields.items() if value not in ("", None)}
        return json.dumps(line, ensure_ascii=False)

    def _error(self, record: logging.LogRecord) -> dict[str, str]:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return {}
        fields = {"error.type": type(error).__name__, "error.stack_trace": trace_of(error, details=self._details)}
        return {**fields, "imaging.code": error.code.value} if isinstance(error, PipelineError) else fields
