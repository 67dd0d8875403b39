"""One pass over STUDIES: what lies there, what of it is to be done, and doing it."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imaging_pipeline.console import Screen
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.found import Skips, Tasks
from imaging_pipeline.intake.rules import SelectionRules
from imaging_pipeline.intake.shelf import Rows
from imaging_pipeline.job import Job
from imaging_pipeline.ledger import Ledger
from imaging_pipeline.monitoring import Observer
from imaging_pipeline.outbox import NoOutbox, Outbox
from imaging_pipeline.partition import skipped_result
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.again import kind_of
from imaging_pipeline.results.audit import Audit
from imaging_pipeline.results.page import write_report
from imaging_pipeline.runner import Runner
from imaging_pipeline.schedule import Schedule
from imaging_pipeline.schedule import plan as plan_schedule
from imaging_pipeline.stopping import Stop
from imaging_pipeline.stores import Store
from imaging_pipeline.survey import Survey, Surveyor
from imaging_pipeline.tally import Tally
from imaging_pipeline.verdicts import Judge
from imaging_pipeline.workers import Attempts

_RESULTS_AT_A_TIME = 500


class Exit(IntEnum):
    """Exit codes of the command."""

    OK = 0  # at least one series is done, none failed; skipped series do not count
    UNEXPECTED = 1  # unexpected fault, or interrupted by a second Ctrl-C
    USAGE = 2  # usage, settings or environment: the run did not start, or could not go on
    NOTHING_USABLE = 3  # no series is done and none failed: nothing usable was found
    SOME_FAILED = 4  # at least one series failed; truncated series count as failed
    STOPPED = 5  # stopped by SIGTERM or Ctrl-C before all series were done; the next run goes on
    BUSY = 6  # another run works on the same RESULTS
    NOT_SENT = 7  # as 0, but not everything that --send was to send has arrived


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a pass found, and what it is going to do.

    Attributes:
        todo: Series to work through.
        done: Series that an earlier run has done.
        skipped: Series that are left out, and why.
        given_up: What an earlier run said of series that have ended their process too often.
        tally: Counts of files so far.
        others: Gives path and reason of each file that is no instance.
        began: When the pass began, on the monotonic clock.
        schedule: How `todo` is dealt out.
    """

    todo: Tasks
    done: Tasks
    skipped: Skips
    given_up: tuple[SeriesResult, ...]
    tally: Tally
    others: Callable[[], Iterable[tuple[str, str]]]
    began: float
    schedule: Schedule

    def exit_code(self) -> Exit:
        """What a run would end in if every series that is taken were done."""
        codes = map(Code, self.skipped.column("code").unique().to_pylist())
        if self.given_up or any(code.is_failure for code in codes):
            return Exit.SOME_FAILED
        return Exit.OK if self.todo or self.done else Exit.NOTHING_USABLE


@dataclass(slots=True)
class Known:
    """What one pass tells the next.

    Attributes:
        survey: What was found: it is found again where no file has changed.
        verified: Digests of series key and fingerprint of series that were found done, outputs and all.
    """

    survey: Survey | None = None
    verified: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One pass.

    Attributes:
        studies: Where DICOM lies.
        job: What its series have in common.
        rules: Which of them are taken.
        runner: Reads headers and works through series.
        screen: Says what happens.
        stop: Asks it to end.
        only: Series that are worked on, done or not, by key; None: all that are not done.
        known: From passes before.
        outbox: Sends what series give.
        observer: Is told of it all.
    """

    studies: Store
    job: Job
    rules: SelectionRules
    runner: Runner
    screen: Screen
    stop: Stop
    only: frozenset[str] | None = None
    known: Known = field(default_factory=Known)
    outbox: Outbox | NoOutbox = field(default_factory=NoOutbox)
    observer: Observer = field(default_factory=Observer)

    def look(self, *, dry_run: bool = False) -> Plan:
        """Read headers, group and select series, and set aside what RESULTS already holds.

        Args:
            dry_run: RESULTS is left as it is.
        """
        job, began, known = self.job, time.monotonic(), self.known
        surveyor = Surveyor(studies=self.studies, job=job, rules=self.rules, runner=self.runner)
        with self.screen.busy("reading headers"):
            found = known.survey = surveyor.survey(known.survey, dry_run=dry_run)
        tally = Tally(files=found.files.copy(), duplicates=found.n_copies)
        tasks = found.tasks if self.only is None else found.tasks.part(_rows_of(found.tasks, self.only))
        with self.screen.busy("looking what is done"):
            is_forced = job.settings.force or self.only is not None
            verdicts = Judge(job=job, is_forced=is_forced, verified=known.verified).judge(tasks)
        todo = verdicts.todo
        tally.again = Counter(map(kind_of, verdicts.causes.values()))
        self.observer.looked(todo, len(verdicts.done), found.skipped, len(verdicts.given_up))
        return Plan(
            todo=todo,
            done=verdicts.done,
            skipped=found.skipped,
            given_up=verdicts.given_up,
            tally=tally,
            others=found.reasons,
            began=began,
            schedule=plan_schedule(todo, job, self.runner.slots(job)),
        )

    def tell(self, plan: Plan) -> None:
        """Say what was found."""
        self.screen.files(plan.tally, plan.others())
        if plan.given_up:
            self.screen.given_up(len(plan.given_up), str(self.job.out))
        if plan.tally.again:
            counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(plan.tally.again.items()))
            self.screen.say(f"again: {counts}")
        if len(plan.todo):
            self.screen.say(plan.schedule.in_words())

    def work(self, plan: Plan) -> Exit:
        """Work through a plan; every result goes to the screen and, in batches, into the index."""
        with self.stop.marking(self.job):
            if len(plan.todo) and not self.stop.requested:
                with self.screen.busy(f"opening {self.job.model_name}" if self.job.bundle else "getting ready"):
                    lines = self.runner.check_model(self.job)
                for line in lines:
                    self.screen.say(line)
            try:
                return self._execute(plan)
            finally:
                self.screen.summary(plan.tally, time.monotonic() - plan.began)

    def _execute(self, plan: Plan) -> Exit:
        tally, job = plan.tally, self.job
        audit = Audit(out=job.out, seal_key=job.seal_key)
        audit.record("planned", run_id=job.run_id, inputs=_inputs(plan))
        tally.already_done = len(plan.done)
        ledger = Ledger(job, str(self.studies), plan.schedule.forecast())
        for part in plan.skipped.pieces(_RESULTS_AT_A_TIME):
            skipped = [skipped_result(item.unpack(), job) for item in part]
            ledger.record_skipped(skipped)
            for result in skipped:
                tally.add(result)
                self.observer.left_out(result)
        for result in plan.given_up:
            tally.add(result)
            self.observer.left_out(result)
            ledger.keep(result.identity.series_key, is_done=False)
        finished = plan.done.column("series_key").to_pylist()
        for key in finished:
            ledger.keep(key, is_done=True)
        self.outbox.put_finished(finished, job.model_name)
        self.screen.start(plan.schedule, job)
        exit_code, began, outcome, n_before = Exit.UNEXPECTED, time.monotonic(), None, tally.n_results
        lesson = plan.schedule.lesson()
        try:
            for result in self.runner.results(plan.schedule, job) if len(plan.todo) else ():
                tally.add(result)
                lesson.add(result)
                self.screen.result(result)
                ledger.record(result)
                self.outbox.put([result])
                self.observer.finished(result)
            is_whole = tally.n_results - n_before == len(plan.todo)
            outcome = plan.schedule.outcome(lesson, time.monotonic() - began)
            ledger.catch_up()
            Attempts(job).tidy()
            tally.dispatch = self.outbox.settle()
            exit_code = _exit_code(tally) if is_whole else Exit.STOPPED
        finally:
            tally.left = len(plan.todo) - (tally.n_results - n_before)
            self.screen.stop()
            self.observer.ended(tally, exit_code)
            ledger.close(tally, exit_code, outcome)
            counts, version = tally.series(), ledger.index_version
            audit.record("worked", run_id=job.run_id, exit_code=exit_code, series=counts, index_version=version)
        self._report()
        return exit_code

    def _report(self) -> None:
        """Write the page for people; all else is there already, and stays so where this cannot be done."""
        if not self.job.settings.report.enabled:
            return
        try:
            write_report(self.job.out, self.job.settings.report.max_series)
        except PipelineError as error:
            self.screen.say(f"no {layout.REPORT}: {error.code}: {error.message}; {error.hint}")


def _rows_of(tasks: Tasks, only: frozenset[str]) -> Rows:
    wanted = pc.is_in(tasks.column("series_key"), value_set=pa.array(only, pa.string()))
    return tasks.rows[np.array(wanted, np.bool_)]


def _inputs(plan: Plan) -> dict[str, Any]:
    """What a pass found, in numbers and one digest over the inputs of all series."""
    names = ("series_key", "inputs_digest", "n_slices")
    parts = [[shelf.column(name) for name in names] for shelf in (plan.todo, plan.done, plan.skipped)]
    given_up = [[getattr(item.identity, name) for item in plan.given_up] for name in names]
    parts.append([pa.array(values, column.type) for values, column in zip(given_up, parts[0], strict=True)])
    keys, digests, n_slices = (pa.chunked_array(columns) for columns in zip(*parts, strict=True))
    lines = pc.binary_join_element_wise(keys, digests, " ")
    lines = lines.take(pc.sort_indices(lines))
    digest = hashlib.sha256()
    for number, line in enumerate(lines):
        digest.update(b"\n" * bool(number) + line.as_py().encode())
    return {
        "sha256": digest.hexdigest(),
        "series": len(lines),
        "slices": pc.sum(n_slices).as_py() or 0,
        "todo": len(plan.todo),
    }


def _exit_code(tally: Tally) -> Exit:
    if tally.fates[Status.FAILED]:
        return Exit.SOME_FAILED
    if not tally.fates[Status.DONE] and not tally.already_done:
        return Exit.NOTHING_USABLE
    return Exit.NOT_SENT if tally.dispatch is not None and tally.dispatch.falls_short else Exit.OK
