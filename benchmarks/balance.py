"""How evenly a run's bins kept its slots busy, from its receipts and its plan."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.peer_account import Account
from imaging_pipeline.bins import makespan
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.schedule import KEY
from imaging_pipeline.stores import LocalStore

BINS = "bins.json"
"""Beside the account: series keys of each bin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What became of the bins of a run.

    Attributes:
        spans_s: Seconds of each bin, from its first series' start to its last receipt, in the order of the plan.
        makespan_s: From the start of the step that works series through to the last receipt.
        predicted_s: What the plan said that it would be.
        slots: Bins that run beside each other.
    """

    spans_s: tuple[float, ...]
    makespan_s: float
    predicted_s: float
    slots: int

    @property
    def n_bins(self) -> int:
        """Bins that were dealt."""
        return len(self.spans_s)

    @property
    def to_ideal(self) -> float:
        """Makespan by what the same bins would take if no slot ever waited; 1 at best."""
        return self.makespan_s * self.slots / sum(self.spans_s)

    @property
    def between_s(self) -> float:
        """Seconds of a slot for each bin that are neither work nor the wait for the last slot: start, and what lies
        between two bins."""
        return (self.makespan_s - makespan(self.spans_s, self.slots)) * self.slots / self.n_bins


def balance_of(out: Path, account: Account, slots: int) -> Balance:
    """Read a finished run.

    Args:
        out: RESULTS, beside it the bins.
        account: What the run said of itself.
        slots: Bins that run beside each other.

    Raises:
        RuntimeError: A series has no receipt that says done.
    """
    found = read_receipts(LocalStore(root=out))
    receipts = {item.identity.series_key: item for item in found if item.status is Status.DONE}
    dealt: list[list[str]] = json.loads((out.parent / BINS).read_text(encoding="utf-8"))
    missing = [key for members in dealt for key in members if key not in receipts]
    if missing or not dealt:
        raise RuntimeError(f"{out}: {len(missing)} of the series in {len(dealt)} bins are not done")
    spans = [_span(members, receipts) for members in dealt]
    plan = json.loads((out / layout.RUN).read_text(encoding="utf-8"))[KEY]
    return Balance(
        spans_s=tuple(end - start for start, end in spans),
        makespan_s=max(end for _, end in spans) - account.parts["results_began_at"],
        predicted_s=plan["predicted_seconds"],
        slots=slots,
    )


def _span(members: Sequence[str], receipts: Mapping[str, SeriesResult]) -> tuple[float, float]:
    started = min(datetime.fromisoformat(receipts[key].started_at) for key in members)
    finished = max(datetime.fromisoformat(receipts[key].finished_at) for key in members)
    return started.timestamp(), finished.timestamp()
