"""The page itself: a template, its style and its script in one file that needs nothing else."""

import hashlib
import json
import logging
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from imaging_pipeline import __version__
from imaging_pipeline.errors import PipelineError
from imaging_pipeline.host import give_back_memory, now, versions
from imaging_pipeline.results.card import read_card
from imaging_pipeline.results.dataset import NOT_FOR_CLINICAL_USE
from imaging_pipeline.results.layout import REPORT, RUN, VOLUMES_ONLY
from imaging_pipeline.results.page import figures
from imaging_pipeline.results.page.rows import Row, read_rows
from imaging_pipeline.results.reviews import latest_reviews
from imaging_pipeline.stores import Store, at_once

_EXIT_WORDS = {
    0: "done",
    1: "ended by a fault",
    3: "nothing usable was found",
    4: "done, some series failed",
    5: "stopped before all series were done",
}


def write_report(out: Store, max_series: int, *, embed: bool = False) -> int:
    """Write report.html from index and receipts of a RESULTS; how many series it shows.

    Args:
        out: RESULTS.
        max_series: The largest number of rows of its table.
        embed: Put pictures into the page, so that it can be sent to somebody by itself.

    Raises:
        PipelineError: `index-damaged`, `store-unreachable` or `write-failed`.
    """
    rows = read_rows(out)
    shown = rows[:max_series]
    pictures = _embedded(out, shown) if embed else {}
    out.publish(REPORT, (piece.encode() for piece in _pieces(out, rows, shown, pictures)))
    give_back_memory()
    return len(shown)


def _pieces(out: Store, rows: Sequence[Row], shown: Sequence[Row], pictures: Mapping[str, str]) -> Iterator[str]:
    """The page, piece by piece.

    Args:
        out: RESULTS, for its last run, its models' cards and reviews.
        rows: Of all series.
        shown: Those of them that the table holds.
        pictures: Path of a preview to the data URI to show in its place.
    """
    totals = figures.Totals.of(rows)
    models = sorted(totals.models - {VOLUMES_ONLY})
    cards = {name: read_card(out, name) for name in models}
    colours = {name: dict(card.labels.values()) for name, card in cards.items() if card}
    style, script = asset("report.css"), asset("report.js")
    return (
        environment()
        .from_string(asset("report.html"))
        .generate(
            csp=page_policy(style, script),
            style=Markup(style),  # noqa: S704 - both are files of this package
            script=Markup(script),  # noqa: S704
            told=map(htmlsafe_json_dumps, with_reviews(out, shown)),
            colours=colours,
            pictures=dict(pictures),
            n_shown=len(shown),
            n_rows=len(rows),
            counts=totals.counts(),
            run=_last_run(out),
            reasons=totals.reasons(),
            flags=totals.flags.most_common(),
            stages=totals.stages(),
            durations=totals.durations(),
            boxes={name: boxes for name in models if (boxes := totals.volumes(name))},
            models=models,
            cards=cards,
            versions=versions(),
            made_at=now(),
            version=__version__,
            notice=NOT_FOR_CLINICAL_USE,
        )
    )


def environment() -> Environment:
    """Templates whose every value is escaped."""
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def asset(name: str) -> str:
    """A file that belongs to the page."""
    return files("imaging_pipeline.results.page").joinpath(name).read_text(encoding="utf-8")


def page_policy(style: str, script: str) -> str:
    """What the page may load: pictures beside it, this style and this script, and nothing from anywhere."""
    return (
        f"default-src 'none'; img-src 'self' file: data:; style-src {_hash_of(style)}; "
        f"script-src {_hash_of(script)}; base-uri 'none'; form-action 'none'"
    )


def with_reviews(out: Store, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows with the last verdict on each; a table of reviews that cannot be read hides none of them."""
    try:
        reviews = latest_reviews(out)
    except PipelineError as error:
        logging.getLogger(__name__).warning("no reviews: %s", error)
        reviews = {}
    for row in rows:
        review = reviews.get((row["key"], row["model"]))
        words = review and {
            "verdict": review.verdict,
            "comment": review.comment,
            "reviewer": review.reviewer,
            "at": review.reviewed_at.isoformat(timespec="seconds"),
        }
        yield {**row, "review": words}


def _hash_of(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(out: Store, rows: Sequence[Row]) -> dict[str, str]:
    paths = [row["preview"] for row in rows if row["preview"]]

    def read(path: str) -> str:
        try:
            return f"data:image/png;base64,{b64encode(out.read(path)).decode()}"
        except OSError:
            return ""

    with at_once(out) as work:
        return {path: picture for path, picture in zip(paths, work(read, paths), strict=True) if picture}


def _last_run(out: Store) -> dict[str, Any] | None:
    """What the last run says of itself, with how long it took and how much it got through."""
    try:
        run: dict[str, Any] = json.loads(out.read(RUN))
        began, ended = datetime.fromisoformat(run["started_at"]), datetime.fromisoformat(run["finished_at"])
        seconds = (ended - began).total_seconds()
        n_worked = run["series"]["done"] + run["series"]["failed"]
        return {
            **{key: run[key] for key in ("run_id", "started_at", "series", "files", "recomputed")},
            "model": run["model"]["name"],
            "duration": figures.seconds(seconds),
            "series_per_hour": round(n_worked / seconds * 3600) if seconds > 0 else 0,
            "outcome": _EXIT_WORDS.get(run["exit_code"], f"exit code {run['exit_code']}"),
        }
    except (OSError, ValueError, TypeError, KeyError):
        return None
