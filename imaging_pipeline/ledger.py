"""A run's own account: receipts of skipped series, rows into index and measurements in batches, run.json."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

from imaging_pipeline import schedule
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.host import give_back_memory, now, versions
from imaging_pipeline.job import Job
from imaging_pipeline.outbox import Dispatch
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results import layout, measurements
from imaging_pipeline.results.dataset import describe_dataset
from imaging_pipeline.results.index import SERIES
from imaging_pipeline.results.publish import publish_json
from imaging_pipeline.results.receipt import (
    read_receipt,
    read_receipts,
    receipt_paths,
    says_the_same,
    write_receipt,
)
from imaging_pipeline.results.seal import FIELD, seal
from imaging_pipeline.results.tables import Batch, Form, Index, Key, Keys, open_table
from imaging_pipeline.rows import pack, unpack
from imaging_pipeline.stores import at_once
from imaging_pipeline.tally import Tally

_unpacked = partial(unpack, SeriesResult)

_BATCH_ROWS = 1000
"""Rows of one commit at most: they exist several times while they are written."""

_COMMIT_SHARE = 20
"""A commit is followed by a pause of at least so many times its length."""


class Ledger:
    """Keeps RESULTS in step with a run; used by the driver alone.

    Receipts are the truth; the index and the table of measurements follow them, at most `index.commit_seconds` behind.
    """

    def __init__(self, job: Job, studies: str, forecast: dict[str, Any]) -> None:
        """Open index and measurements, and write the run's settings.

        Args:
            job: The run.
            studies: Where its input lies.
            forecast: What its plan predicts.
        """
        self._job = job
        self._studies = studies
        self._forecast = forecast
        self._index = self._open(SERIES)
        self._measurements = None if job.bundle is None else self._open(measurements.form(job.out))
        self._waiting: dict[Key, bytes] = {}
        self._sending: dict[Key, bytes] = {}
        self._batch = Batch(writer=job.run_id, number=1)
        self._next_commit = time.monotonic() + job.settings.index.commit_seconds
        self._indexed = self._known_rows(self._index, lambda: bool(receipt_paths(job.out)))
        self._measured: Keys | None = None
        if self._measurements is not None:
            self._measured = self._known_rows(self._measurements, self._has_measured)
        self._started_at = now()
        describe_dataset(job.out, job.bundle)
        self._write_run({"finished_at": None, schedule.KEY: forecast})

    def keep(self, series_key: str, *, is_done: bool) -> None:
        """A series that needed no work: its rows are written again only where they have been lost."""
        key = (series_key, self._job.model_name)
        is_measured = self._measured is None or key in self._measured
        if key in self._indexed and (is_measured or not is_done):
            return
        receipt = read_receipt(self._job.out, *key)
        if receipt is not None and (key not in self._indexed or receipt.measurements_path):
            self._wait(receipt)

    def record_skipped(self, results: Sequence[SeriesResult]) -> None:
        """Series that are left out: receipts and rows are written only where they say something new."""
        out = self._job.out
        with at_once(out) as work:
            earlier = work(lambda result: read_receipt(out, result.identity.series_key, result.model_name), results)
            pairs = zip(earlier, results, strict=True)
            is_known = [before is not None and says_the_same(before, result) for before, result in pairs]
            news = [result for result, known in zip(results, is_known, strict=True) if not known]
            news = list(work(partial(write_receipt, out, seal_key=self._job.seal_key), news))
        for result in news:
            self._wait(result)
        for result, known in zip(results, is_known, strict=True):
            if known:
                self.keep(result.identity.series_key, is_done=False)

    def record(self, result: SeriesResult) -> None:
        """A series whose receipt is written: its row goes in with the next batch."""
        self._wait(result)
        if time.monotonic() >= self._next_commit:
            try:
                self._commit()
            except PipelineError:  # the receipt is there: the work goes on, and the next commit tries again
                logging.getLogger(__name__).warning("the index cannot be written to", exc_info=True)

    def catch_up(self) -> None:
        """Put the rows that wait into the index: it may be a while until the run ends."""
        with suppress(PipelineError):  # the end of the run says so
            self._commit()

    def close(self, tally: Tally, exit_code: int, outcome: dict[str, Any] | None = None) -> None:
        """Commit what waits and write how the run ended.

        Args:
            tally: Counts of the run.
            exit_code: Of the command.
            outcome: What became of the plan; None where the run did not come that far.
        """
        try:
            self._commit_at_last()
            for table in self._tables:
                table.tidy()
        finally:
            self._write_run(
                {
                    "finished_at": now(),
                    "exit_code": exit_code,
                    schedule.KEY: outcome or self._forecast,
                    "files": dict(tally.files),
                    "duplicate_instances": tally.duplicates,
                    "series": tally.series(),
                    "recomputed": dict(tally.again),
                    "reasons": tally.reasons_of(*Status),
                    **_sending(tally.dispatch),
                }
            )

    @property
    def index_version(self) -> int | None:
        """Version of the index; None for one without."""
        state = self._index.state()
        return None if state is None else state.version

    @property
    def _tables(self) -> tuple[Index, ...]:
        return (self._index,) if self._measurements is None else (self._index, self._measurements)

    def _open(self, form: Form) -> Index:
        return open_table(self._job.out, form, self._job.settings.index.format, self._job.settings.index)

    def _has_measured(self) -> bool:
        return any(receipt.measurements_path for receipt in read_receipts(self._job.out))

    def _known_rows(self, table: Index, ought_to_have: Callable[[], bool]) -> Keys:
        """What a table has; one that is lost or damaged is made anew of the receipts first."""
        try:
            found = table.keys()
            if len(found):
                return found
            wanting = ought_to_have()
        except PipelineError as error:
            if error.code is not Code.INDEX_DAMAGED:
                raise
            logging.getLogger(__name__).warning("a table is made anew of the receipts: %s", error)
            wanting = True
        if wanting:
            table.rebuild(lambda: read_receipts(self._job.out))
        return table.keys()

    def _wait(self, result: SeriesResult) -> None:
        """Until the next commit, packed: as objects they would take ten times as much; the last one holds."""
        key = (result.identity.series_key, result.model_name)
        self._waiting.pop(key, None)
        self._waiting[key] = pack([result])

    def _commit(self) -> None:
        """Send what waits. What was sent and not answered goes first, as it was: the index may have it already.

        The next batch is due after `index.commit_seconds`, and not before commits would take more than a twentieth of
        the time: a table of many rows takes longer.
        """
        began = time.monotonic()
        while self._sending or self._waiting:
            if not self._sending:
                self._sending = {key: self._waiting.pop(key) for key in list(islice(self._waiting, _BATCH_ROWS))}
            for table in self._tables:
                table.commit(chain.from_iterable(map(_unpacked, self._sending.values())), self._batch)
            self._sending = {}
            self._batch = replace(self._batch, number=self._batch.number + 1)
        give_back_memory()
        ended = time.monotonic()
        self._next_commit = ended + max(self._job.settings.index.commit_seconds, _COMMIT_SHARE * (ended - began))

    def _commit_at_last(self) -> None:
        """All that waits; a table that can be read and takes no more is made anew: all of it stands in receipts."""
        try:
            self._commit()
        except PipelineError as error:
            if error.code is not Code.INDEX_DAMAGED:
                raise
            logging.getLogger(__name__).warning("the index is made anew of the receipts: %s", error)
            self._index.rebuild(lambda: read_receipts(self._job.out))

    def _write_run(self, outcome: dict[str, Any]) -> None:
        job = self._job
        content: dict[str, Any] = {
            "run_id": job.run_id,
            "started_at": self._started_at,
            "studies": self._studies,
            **outcome,
            "model": {"name": job.model_name, "digest": "" if job.bundle is None else job.bundle.digest},
            "settings": job.settings.model_dump(mode="json"),
            "versions": versions(),
        }
        content[FIELD] = seal(content, job.seal_key)
        publish_json(job.out, layout.RUN, content)
        publish_json(job.out, f"{layout.LOGS}/{job.run_id}.run.json", content)


def _sending(dispatch: Dispatch | None) -> dict[str, Any]:
    """What run.json says of sending, where there is something to say."""
    if dispatch is None:
        return {}
    unsent = dict(Counter(item.code.value for item in dispatch.unsent))
    counts = {"sent": dispatch.n_sent, "already_sent": dispatch.n_there, "waiting": dispatch.n_waiting}
    return {"sending": {"destination": dispatch.destination, **counts, "unsent": unsent}}
