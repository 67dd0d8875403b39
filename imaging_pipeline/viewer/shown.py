"""What the viewer shows of a RESULTS, and what it writes there: reviews."""

import json
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

import numpy as np

from imaging_pipeline.records import Status
from imaging_pipeline.results.card import read_card
from imaging_pipeline.results.page.render import with_reviews
from imaging_pipeline.results.page.rows import Row, read_rows
from imaging_pipeline.results.reviews import Review, add_review, now_utc
from imaging_pipeline.results.window import window_of
from imaging_pipeline.stores import Store

KINDS = ("image", "mask", "preview")
_LONGEST_COMMENT = 2000


class Shown:
    """The series of a RESULTS, read anew each time a page asks for them."""

    def __init__(self, out: Store, reviewer: str) -> None:
        """Read the index.

        Args:
            out: RESULTS.
            reviewer: Who the verdicts are of.

        Raises:
            PipelineError: `index-damaged` or `store-unreachable`.
        """
        self._out = out
        self._reviewer = reviewer
        self._lock = Lock()
        self._rows: dict[tuple[str, str], Row] = {}
        self.refresh()

    def refresh(self) -> int:
        """Read the index again; how many series it has.

        Raises:
            PipelineError: As at first.
        """
        self._rows = {(row["key"], row["model"]): row for row in read_rows(self._out)}
        return len(self._rows)

    def series(self) -> dict[str, Any]:
        """All series with their last reviews, and labels and colours of the models."""
        self.refresh()
        rows = list(with_reviews(self._out, self._rows.values()))
        cards = {name: read_card(self._out, name) for name in {row["model"] for row in rows}}
        return {
            "reviewer": self._reviewer,
            "rows": [{**row, "window": _window(row)} for row in rows],
            "labels": {
                name: [
                    {"index": index, "name": label, "colour": colour} for index, (label, colour) in card.labels.items()
                ]
                for name, card in cards.items()
                if card is not None
            },
        }

    def file(self, key: str, model: str, kind: str) -> bytes | None:
        """A file of a series; None where there is none. Its path comes from the index, never from a request."""
        row = self._rows.get((key, model))
        path = row[kind] if row is not None and kind in KINDS else ""
        if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            return None
        try:
            return self._out.read(path)
        except OSError:
            return None

    def review(self, content: bytes) -> str:
        """Write a verdict; why it is none, or nothing.

        Args:
            content: JSON with key, model, verdict and comment.

        Raises:
            PipelineError: `write-failed`.
        """
        try:
            told = json.loads(content)
            key, model, verdict, comment = (told[name] for name in ("key", "model", "verdict", "comment"))
        except (ValueError, TypeError, KeyError):
            return "a review is JSON with key, model, verdict and comment"
        row = self._rows.get((key, model)) if isinstance(key, str) and isinstance(model, str) else None
        if row is None or row["status"] != Status.DONE:
            return "no such series is done"
        if verdict not in ("accept", "reject"):
            return "a verdict is accept or reject"
        if not isinstance(comment, str) or len(comment) > _LONGEST_COMMENT:
            return f"a comment is a text of at most {_LONGEST_COMMENT} characters"
        review = Review(
            series_key=key,
            model_name=model,
            verdict=verdict,
            comment=comment.strip(),
            reviewer=self._reviewer,
            reviewed_at=now_utc(),
        )
        with self._lock:
            add_review(self._out, review)
        return ""


def _window(row: Row) -> list[float] | None:
    """What is black and what is white in CT; elsewhere the browser looks at the values."""
    if row["modality"] != "CT":
        return None
    window = window_of("CT", np.zeros(0))
    return [window.low, window.high]
