"""Counts of a run: what is told at its end. They stay small, however many series there are."""

from collections import Counter
from dataclasses import dataclass, field

from imaging_pipeline.outbox import Dispatch
from imaging_pipeline.records import SeriesResult, Status

_FAILURES_TOLD = 200
"""Failures that are told one by one; all of them stand in receipts and index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A series that failed, in the words of its receipt."""

    modality: str
    series_key: str
    code: str
    message: str
    hint: str


@dataclass(slots=True)
class Tally:
    """Counts of a run.

    Attributes:
        files: Files by what they are: `dicom`, or a reason code.
        duplicates: Second copies of an instance.
        already_done: Series that needed no work.
        left: Series that were not begun because the run was asked to stop.
        again: Series that are computed again, by the kind of the cause.
        fates: What this run made of the others.
        reasons: Why series are skipped or failed, by status and code.
        refused: Outputs that done series go without, by format and code.
        flags: What is to be looked at in done series, by code.
        flagged: Done series with something to look at.
        failures: The first failures.
        dispatch: How far sending has come; None where nothing is to be sent.
    """

    files: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    already_done: int = 0
    left: int = 0
    again: Counter[str] = field(default_factory=Counter)
    fates: Counter[Status] = field(default_factory=Counter)
    reasons: Counter[tuple[Status, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    flagged: int = 0
    failures: list[Failure] = field(default_factory=list)
    dispatch: Dispatch | None = None

    def add(self, result: SeriesResult) -> None:
        """Count a series."""
        status = result.status
        self.fates[status] += 1
        if result.reason_code:
            self.reasons[status, result.reason_code] += 1
        if status is Status.DONE:
            self.refused.update((item.format, item.code.value) for item in result.formats_refused)
            self.flags.update(flag.code.value for flag in result.flags)
            self.flagged += bool(result.flags)
        if status is Status.FAILED and len(self.failures) < _FAILURES_TOLD:
            identity = result.identity
            words = {"code": result.reason_code, "message": result.message, "hint": result.hint}
            self.failures.append(Failure(modality=identity.modality, series_key=identity.series_key, **words))

    @property
    def n_results(self) -> int:
        """Series that this run has a result of."""
        return self.fates.total()

    def reasons_of(self, *statuses: Status) -> dict[str, int]:
        """How many series of these statuses have each reason."""
        counts = Counter[str]()
        for (status, code), count in self.reasons.items():
            if status in statuses:
                counts[code] += count
        return dict(sorted(counts.items()))

    def series(self) -> dict[str, int]:
        """How many series there are of each fate."""
        counts = {status.value: self.fates[status] for status in Status}
        return {"already_done": self.already_done, **counts, "left": self.left}
