"""What goes into the log of a run: where something went wrong, and not what the DICOM said.

Texts of errors and warnings of libraries quote what they stumble over, and that may be a name or a date of birth. Only
kinds of errors and the lines they come from are written, unless `identity.error_details` asks for more.
"""

import logging
import re
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

from imaging_pipeline.errors import PipelineError

_HARMLESS = ("deltalake", "_internal", "pyarrow")
"""Modules whose errors speak of the index alone."""

_WARNING = re.compile(r"(.*?:\d+: \w+): .*", re.DOTALL)


EVENTS = "imaging_pipeline.events"
"""The logger of what only machines read."""


def log_to(handler: logging.Handler, *, details: bool = False, form: logging.Formatter | None = None) -> None:
    """Warnings and tracebacks go to the run's log, never to the screen.

    Args:
        handler: The log.
        details: Texts of errors and warnings of libraries are written too.
        form: For machines, which are told of events too; None: text.
    """
    layout = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(form or (logging.Formatter(layout) if details else _Discreet(layout)))
    logging.getLogger(EVENTS).disabled = form is None
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # where a log cannot be written, its disk being full, nothing goes to the screen
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger("imaging_pipeline").setLevel(logging.INFO)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it logs a traceback for every plugin that fails
    warnings.simplefilter("once")


class LogFile(logging.FileHandler):
    """A log that is made with its first line; where it cannot be, its disk being gone, that line alone is lost."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        super().__init__(path, encoding="utf-8", delay=True)

    def emit(self, record: logging.LogRecord) -> None:
        """See logging's `Handler`."""
        with suppress(OSError):  # of opening it, which logging does not catch
            super().emit(record)


def trace_of(error: BaseException, *, details: bool = False) -> str:
    """A traceback of several lines, of the errors behind an error too; texts of libraries only with `details`."""
    if details:
        return "".join(traceback.format_exception(error)).rstrip()
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines += [f"{name_of(cause)}{f': {cause}' * _is_harmless(cause)}"]
        lines += [line.rstrip() for line in traceback.format_tb(cause.__traceback__)]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(lines)


def said_by(record: logging.LogRecord, *, details: bool = False) -> str:
    """What a record says: a warning of a library by its kind and place; its text only with `details`."""
    text = record.getMessage()
    if details or record.name != "py.warnings":
        return text
    found = _WARNING.match(text)
    return found.group(1) if found else "a warning"


def name_of(error: BaseException) -> str:
    """Kind of an error and the line that raised it: `ValueError in decode.py:57`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


def _is_harmless(error: BaseException) -> bool:
    return isinstance(error, PipelineError) or type(error).__module__.partition(".")[0] in _HARMLESS


class _Discreet(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """A warning of a library by its kind and place."""
        if record.name == "py.warnings":
            record = logging.makeLogRecord(record.__dict__ | {"msg": said_by(record), "args": ()})
        return super().format(record)

    def formatException(self, info: object) -> str:  # noqa: N802 the name is logging's
        """A traceback without texts of libraries."""
        error = info[1] if isinstance(info, tuple) else None
        return trace_of(error) if isinstance(error, BaseException) else ""
