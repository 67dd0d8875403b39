"""One JSON per series, written last: the commit point of its result."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from imaging_pipeline.records import SeriesIdentity, SeriesResult, SeriesTask, Status
from imaging_pipeline.results.layout import RECEIPTS, receipt_path
from imaging_pipeline.results.publish import digest_of, publish
from imaging_pipeline.settings import Settings


def write_receipt(out: Path, result: SeriesResult) -> None:
    """Commit the result of a series.

    Raises:
        PipelineError: `write-failed`.
    """
    path = out / receipt_path(result.identity.series_key, result.model_name)
    publish(path, _adapter().dump_json(result, indent=2) + b"\n")


def read_receipt(out: Path, series_key: str, model: str) -> SeriesResult | None:
    """The receipt of a series for a model; None where there is none, or none that can be read."""
    return _read(out / receipt_path(series_key, model))


def read_receipts(out: Path) -> Iterator[SeriesResult]:
    """All receipts of a RESULTS, in the order of their names."""
    for path in sorted((out / RECEIPTS).glob("*.json")):
        result = _read(path)
        if result is not None:
            yield result


def follow_receipts(out: Path, run_id: str, pending: dict[str, SeriesTask], model: str) -> Iterator[list[SeriesResult]]:
    """New receipts of a run, at each `next` those that have come since.

    Args:
        out: RESULTS.
        run_id: Receipts of other runs do not count.
        pending: Series key to task; a series that is finished is taken out.
        model: Model name of the receipts.
    """
    names = {Path(receipt_path(key, model)).name: key for key in pending}
    seen: dict[str, int] = {}
    while True:
        fresh: list[SeriesResult] = []
        for entry in os.scandir(out / RECEIPTS):
            key = names.get(entry.name)
            if key is None or key not in pending:
                continue
            stamp = entry.stat().st_mtime_ns
            if seen.get(entry.name) == stamp:
                continue
            seen[entry.name] = stamp
            result = _read(Path(entry.path))
            if result is not None and result.run_id == run_id:
                del pending[key]
                fresh.append(result)
        yield fresh


def fingerprint(identity: SeriesIdentity, model_digest: str, settings: Settings) -> str:
    """One digest over all that can change a result: inputs, model, settings and package version."""
    parts = (identity.inputs_digest, model_digest, settings.voxel_digest())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def is_done(
    out: Path,
    receipt: SeriesResult | None,
    fingerprint: str,
    *,
    with_image: bool = False,
    with_probabilities: bool = False,
) -> bool:
    """Whether a series needs no work: done, of the same fingerprint, and every output as it was written.

    Args:
        out: RESULTS.
        receipt: The receipt of the series, if there is one.
        fingerprint: What it must have been made from.
        with_image: The volume itself is wanted too.
        with_probabilities: So are probabilities.
    """
    return (
        receipt is not None
        and receipt.status is Status.DONE
        and receipt.fingerprint == fingerprint
        and (not with_image or receipt.image_path != "")
        and (not with_probabilities or receipt.probabilities_path != "")
        and all(digest_of(out / path) == digest for path, digest in receipt.output_digests.items())
    )


def says_the_same(one: SeriesResult, other: SeriesResult) -> bool:
    """Whether two results differ in nothing but when, where and in which run they were made."""
    return _without_circumstances(one) == _without_circumstances(other)


def _without_circumstances(result: SeriesResult) -> SeriesResult:
    return replace(result, run_id="", attempt=0, started_at="", finished_at="", host="", versions={}, peak_rss_mb=0.0)


def _read(path: Path) -> SeriesResult | None:
    try:
        return _adapter().validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


@cache
def _adapter() -> TypeAdapter[SeriesResult]:
    return TypeAdapter(SeriesResult)
