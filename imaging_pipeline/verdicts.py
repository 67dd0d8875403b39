"""Which series an earlier run has done, has given up, or has to see computed again."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from imaging_pipeline.intake.found import PackedTask, Tasks, packed_task
from imaging_pipeline.intake.shelf import Shelf
from imaging_pipeline.job import Job
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.results import layout
from imaging_pipeline.results.again import FORCED, Wanted, why_again
from imaging_pipeline.results.receipt import find_receipt, is_given_up
from imaging_pipeline.stores import at_once

_SERIES_AT_A_TIME = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What is to become of series.

    Attributes:
        todo: To be computed, each with its cause where it was before.
        done: An earlier run has done them.
        given_up: What an earlier run says of those that ended their process too often.
        causes: Why series are computed again, by key.
    """

    todo: Tasks
    done: Tasks
    given_up: tuple[SeriesResult, ...]
    causes: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Looks at receipts and at the outputs that they name.

    Attributes:
        job: Names RESULTS, model and settings.
        is_forced: Series are computed whether they are done or not.
        verified: Digests of key and fingerprint of series that were found done, outputs and all; it adds to them.
    """

    job: Job
    is_forced: bool
    verified: set[bytes]

    def judge(self, tasks: Tasks) -> Verdicts:
        """Look at all of them, as many at a time as the store is worth."""
        todo, done, given_up, causes = list[int](), list[int](), list[SeriesResult](), dict[str, str]()
        with at_once(self.job.out) as work:
            for part in tasks.pieces(_SERIES_AT_A_TIME):
                some = list(part)
                for row, task, verdict in zip(part.rows.tolist(), some, work(self._verdict, some), strict=True):
                    if verdict.given_up is not None:
                        given_up.append(verdict.given_up)
                        continue
                    (done if verdict.is_done else todo).append(row)
                    if verdict.cause:
                        causes[task.series_key] = verdict.cause
        again = tasks.part(np.array(todo, np.int64))
        if causes:
            again = Shelf.of(PackedTask, (_with_cause(task, causes) for task in again))
        done_before = tasks.part(np.array(done, np.int64))
        return Verdicts(todo=again, done=done_before, given_up=tuple(given_up), causes=causes)

    def _verdict(self, task: PackedTask) -> "_Verdict":
        job, key = self.job, task.series_key
        wanted = job.fingerprint(task.inputs_digest)
        name = hashlib.sha256(f"{key} {wanted}".encode()).digest()
        if name in self.verified and not self.is_forced:
            return _Verdict(is_done=True)
        found = find_receipt(job.out, layout.receipt_path(key, job.model_name), job.seal_key)
        if found is None or self.is_forced:
            return _Verdict(cause=FORCED * (found is not None))
        if found.is_sealed and found.receipt is not None and is_given_up(found.receipt, wanted):
            return _Verdict(given_up=found.receipt)
        digest = "" if job.bundle is None else job.bundle.digest
        cause = why_again(job.out, found, Wanted(identity=task.identity, model_digest=digest, settings=job.settings))
        if not cause:
            self.verified.add(name)
        return _Verdict(cause=cause, is_done=not cause)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What is to become of a series.

    Attributes:
        is_done: Nothing: an earlier run has done it.
        given_up: Nothing: what an earlier run says of it.
        cause: Why it is computed again; empty for one that never was.
    """

    is_done: bool = False
    given_up: SeriesResult | None = None
    cause: str = ""


def _with_cause(task: PackedTask, causes: dict[str, str]) -> PackedTask:
    cause = causes.get(task.series_key)
    return task if cause is None else packed_task(replace(task.unpack(), recomputed_because=cause))
