"""A run's own account: receipts of skipped series, rows into the index in batches, run.json."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from imaging_pipeline.host import now, versions
from imaging_pipeline.job import Job
from imaging_pipeline.records import SeriesIdentity, SeriesResult, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.dataset import describe_dataset
from imaging_pipeline.results.index import open_index
from imaging_pipeline.results.publish import publish_json
from imaging_pipeline.results.receipt import read_receipt, read_receipts, says_the_same, write_receipt


@dataclass(slots=True)
class Tally:
    """Counts of a run.

    Attributes:
        files: Files by what they are: `dicom`, or a reason code.
        duplicates: Second copies of an instance.
        already_done: Series that needed no work.
        results: What this run made of the others.
    """

    files: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    already_done: int = 0
    results: list[SeriesResult] = field(default_factory=list)

    def of(self, status: Status) -> list[SeriesResult]:
        """Results of one status."""
        return [result for result in self.results if result.status is status]


class Ledger:
    """Keeps RESULTS in step with a run; used by the driver alone.

    Receipts are the truth; the index follows them, at most `index.commit_seconds` behind.
    """

    def __init__(self, job: Job) -> None:
        """Open the index and write the run's settings."""
        self._job = job
        self._index = open_index(job.out, job.settings.index.format)
        self._indexed = self._index.keys()
        self._waiting: list[SeriesResult] = [] if self._indexed else list(read_receipts(job.out))
        self._indexed |= {(receipt.identity.series_key, receipt.model_name) for receipt in self._waiting}
        self._commit()
        self._started_at = now()
        describe_dataset(job.out, job.bundle)
        self._write_run({"finished_at": None})

    def keep(self, identity: SeriesIdentity) -> None:
        """A series that is done already: its row is written again only where the index has lost it."""
        receipt = read_receipt(self._job.out, identity.series_key, self._job.model_name)
        if receipt is not None and (identity.series_key, self._job.model_name) not in self._indexed:
            self._waiting.append(receipt)

    def record_skipped(self, result: SeriesResult) -> None:
        """A series that is left out: receipt and row are written only where they say something new."""
        earlier = read_receipt(self._job.out, result.identity.series_key, result.model_name)
        if earlier is not None and says_the_same(earlier, result):
            self.keep(result.identity)
            return
        write_receipt(self._job.out, result)
        self._waiting.append(result)

    def record(self, result: SeriesResult) -> None:
        """A series whose receipt is written: its row goes in with the next batch."""
        self._waiting.append(result)
        if time.monotonic() - self._committed_at >= self._job.settings.index.commit_seconds:
            self._commit()

    def close(self, tally: Tally, exit_code: int) -> None:
        """Commit what waits and write how the run ended."""
        self._commit()
        counts = {status.value: len(tally.of(status)) for status in Status}
        self._write_run(
            {
                "finished_at": now(),
                "exit_code": exit_code,
                "files": dict(tally.files),
                "duplicate_instances": tally.duplicates,
                "series": {"already_done": tally.already_done, **counts},
                "reasons": dict(Counter(result.reason_code for result in tally.results if result.reason_code)),
            }
        )

    def _commit(self) -> None:
        if self._waiting:
            self._index.commit(self._waiting)
            self._waiting = []
        self._committed_at = time.monotonic()

    def _write_run(self, outcome: dict[str, Any]) -> None:
        job = self._job
        content = {
            "run_id": job.run_id,
            "started_at": self._started_at,
            **outcome,
            "model": {"name": job.model_name, "digest": "" if job.bundle is None else job.bundle.digest},
            "settings": job.settings.model_dump(mode="json"),
            "versions": versions(),
        }
        publish_json(job.out / layout.RUN, content)
        publish_json(job.out / layout.LOGS / f"{job.run_id}.run.json", content)
