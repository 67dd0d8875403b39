"""Markers of series at work: what is known of earlier tries that never came to a receipt."""

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache

from pydantic import TypeAdapter, ValidationError

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.host import now
from imaging_pipeline.job import Job
from imaging_pipeline.records import SeriesTask, Status
from imaging_pipeline.results.layout import RECEIPTS, label_of
from imaging_pipeline.results.receipt import find_receipt, is_given_up

FOLDER = "attempts"

_INTERRUPTIONS = 5
"""So many runs that ended while a series was at work are no chance: it takes the whole machine down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """The end of a process that worked on a series.

    Attributes:
        cause: What ended it, in words.
        at: When, ISO 8601.
    """

    cause: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What is known of a series at work.

    Attributes:
        fingerprint: What it was tried with; a marker of another one says nothing.
        run_id: The run that was at it last.
        is_at_work: Whether it is at work; where nobody works on it, the try was interrupted.
        crashes: Ends of its process that were seen.
        interrupted: Tries that ended with the run itself, or with the machine: nobody saw how.
    """

    fingerprint: str
    run_id: str
    is_at_work: bool = True
    crashes: tuple[Crash, ...] = ()
    interrupted: int = 0

    @property
    def is_suspect(self) -> bool:
        """Whether it is to be tried alone, so that it can harm no other."""
        return bool(self.crashes or self.interrupted)

    def verdict(self, n_crashes: int) -> str:
        """Why it is not to be tried again; empty if it may be.

        Args:
            n_crashes: So many are enough.
        """
        if len(self.crashes) >= n_crashes:
            causes = "; then ".join(dict.fromkeys(crash.cause for crash in self.crashes))
            return f"the process that worked on it ended {len(self.crashes)} times: {causes}"
        if self.interrupted >= _INTERRUPTIONS:
            return f"{self.interrupted} runs ended while it was at work, the machine with them perhaps"
        return ""


class Attempts:
    """The markers of a job."""

    def __init__(self, job: Job) -> None:
        """List what earlier runs left."""
        self._job = job
        try:
            self._left = {entry.path for entry in job.out.list(FOLDER)}
        except OSError:
            self._left = set()

    def known(self, task: SeriesTask) -> Attempt:
        """What is known of a series from before."""
        path, fingerprint = self._path(task.series_key), self._job.fingerprint(task.identity.inputs_digest)
        earlier = self._read(path) if path in self._left else None
        if earlier is None or earlier.fingerprint != fingerprint:
            return Attempt(fingerprint=fingerprint, run_id=self._job.run_id)
        n_interrupted = earlier.interrupted + earlier.is_at_work
        return replace(earlier, run_id=self._job.run_id, interrupted=n_interrupted, is_at_work=True)

    def begin(self, task: SeriesTask, attempt: Attempt) -> None:
        """Mark a series as being at work.

        Raises:
            PipelineError: `write-failed` and its like.
        """
        self._write(self._path(task.series_key), attempt)

    def crashed(self, task: SeriesTask, attempt: Attempt, cause: str) -> Attempt:
        """Note that its process ended while a series was at work."""
        attempt = replace(attempt, crashes=(*attempt.crashes, Crash(cause=cause, at=now())))
        with suppress(PipelineError):  # it is known for this run, at least
            self._write(self._path(task.series_key), attempt)
        return attempt

    def give_back(self, task: SeriesTask, attempt: Attempt) -> None:
        """A series is not at work any more, and has no receipt; what was known of it stays known."""
        if not attempt.is_suspect:
            self.end(task)
            return
        with suppress(PipelineError):
            self._write(self._path(task.series_key), replace(attempt, is_at_work=False))

    def tidy(self) -> None:
        """Remove marks of series that have ended: a run was killed between the receipt and the end of the mark.

        What outlives a killed run for a moment writes some, even beside the next one.
        """
        for path in self._left:
            attempt = self._read(path)
            if attempt is not None and self._has_ended(path, attempt):
                with suppress(OSError):
                    self._job.out.remove(path)

    def end(self, task: SeriesTask) -> None:
        """A series has its receipt."""
        with suppress(OSError):
            self._job.out.remove(self._path(task.series_key))

    def _path(self, series_key: str) -> str:
        return f"{FOLDER}/{series_key}_{label_of(self._job.model_name)}.json"

    def _has_ended(self, path: str, attempt: Attempt) -> bool:
        found = find_receipt(self._job.out, f"{RECEIPTS}/{path.rpartition('/')[2]}", self._job.seal_key)
        if found is None or found.receipt is None or not found.is_sealed:
            return False
        receipt, wanted = found.receipt, attempt.fingerprint
        return is_given_up(receipt, wanted) or (receipt.status is Status.DONE and receipt.fingerprint == wanted)

    def _read(self, path: str) -> Attempt | None:
        try:
            return _adapter().validate_json(self._job.out.read(path))
        except (OSError, ValidationError):
            logging.getLogger(__name__).warning("%s cannot be read", path)
            return None

    def _write(self, path: str, attempt: Attempt) -> None:
        self._job.out.publish(path, _adapter().dump_json(attempt, indent=2) + b"\n")
        self._left.discard(path)


def marks(job: Job) -> dict[str, str]:
    """Series that have a mark, each with what changes when the mark is written again.

    Raises:
        OSError: RESULTS cannot be listed.
    """
    ending = f"_{label_of(job.model_name)}.json"
    try:
        entries = [(entry.path.removeprefix(f"{FOLDER}/"), entry.stamp) for entry in job.out.list(FOLDER)]
    except FileNotFoundError:
        return {}
    return {name.removesuffix(ending): stamp for name, stamp in entries if name.endswith(ending)}


@cache
def _adapter() -> TypeAdapter[Attempt]:
    return TypeAdapter(Attempt)
