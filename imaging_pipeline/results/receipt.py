"""One JSON per series, written last: the commit point of its result."""

import hashlib
import json
import logging
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from imaging_pipeline.errors import Code
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results.layout import RECEIPTS, receipt_path
from imaging_pipeline.results.seal import is_sealed, seal
from imaging_pipeline.settings import Settings
from imaging_pipeline.stores import Entry, Store, at_once
from imaging_pipeline.stores.store import unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file of receipts as it lies there.

    Attributes:
        path: Relative to RESULTS.
        receipt: What it says; None where it cannot be read.
        is_sealed: Whether it is as it was written, by its seal.
    """

    path: str
    receipt: SeriesResult | None
    is_sealed: bool


def write_receipt(out: Store, result: SeriesResult, seal_key: bytes) -> SeriesResult:
    """Commit the result of a series, sealed; the result with its seal.

    Raises:
        PipelineError: `write-failed`.
    """
    path = receipt_path(result.identity.series_key, result.model_name)
    result = replace(result, seal=seal(json.loads(_adapter().dump_json(result)), seal_key))
    out.publish(path, _adapter().dump_json(result, indent=2) + b"\n")
    return result


def find_receipt(out: Store, path: str, seal_key: bytes) -> Found | None:
    """The receipt at a path and whether its seal fits; None where there is no such file."""
    try:
        content = out.read(path)
        receipt = _adapter().validate_json(content)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        return Found(path=path, receipt=None, is_sealed=False)
    return Found(path=path, receipt=receipt, is_sealed=is_sealed(json.loads(content), seal_key))


def read_receipt(out: Store, series_key: str, model: str) -> SeriesResult | None:
    """The receipt of a series for a model; None where there is none, or none that can be read."""
    return _read(out, receipt_path(series_key, model))


def read_receipts(out: Store) -> Iterator[SeriesResult]:
    """All receipts of a RESULTS, in the order of their names.

    Raises:
        PipelineError: `store-unreachable`.
    """
    with at_once(out) as work:
        yield from filter(None, work(partial(_read, out), receipt_paths(out)))


def receipt_paths(out: Store) -> list[str]:
    """Paths of all receipts of a RESULTS, in order.

    Raises:
        PipelineError: `store-unreachable`.
    """
    try:
        names = [entry.path for entry in out.list(RECEIPTS)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreachable(out, error) from None
    return [name for name in names if name.endswith(".json") and "/." not in name]


class Pending(Protocol):
    """Keys of series whose receipts are waited for."""

    def __contains__(self, series_key: str, /) -> bool:
        """Whether it is waited for."""

    def discard(self, series_key: str, /) -> object:
        """It has come."""


class _Wanted(Container[str]):
    """Paths of the receipts that are waited for."""

    def __init__(self, pending: Pending, model: str) -> None:
        self._pending = pending
        self._head, self._tail = receipt_path("\0", model).split("\0")

    def __contains__(self, path: object) -> bool:
        key = str(path).removeprefix(self._head).removesuffix(self._tail)
        return key in self._pending and path == f"{self._head}{key}{self._tail}"


def follow_receipts(out: Store, run_id: str, pending: Pending, model: str) -> Iterator[list[SeriesResult]]:
    """New receipts of a run, at each `next` those that have come since.

    Args:
        out: RESULTS.
        run_id: Receipts of other runs do not count.
        pending: Series; one that is finished is taken out.
        model: Model name of the receipts.
    """
    wanted, seen = _Wanted(pending, model), dict[str, str]()
    while True:
        fresh: list[SeriesResult] = []
        for entry in _listed(out, wanted):
            if entry.path not in wanted or seen.get(entry.path) == entry.stamp:
                continue
            result = _read(out, entry.path)
            if result is not None and result.run_id == run_id:
                pending.discard(result.identity.series_key)
                fresh.append(result)
            else:
                seen[entry.path] = entry.stamp
        yield fresh


def _listed(out: Store, wanted: Container[str]) -> list[Entry]:
    try:
        return list(out.list(RECEIPTS, only=wanted))
    except OSError:  # it may answer the next time; whoever needs to be sure reads the receipts that are missing
        logging.getLogger(__name__).warning("receipts cannot be listed", exc_info=True)
        return []


def fingerprint(inputs_digest: str, model_digest: str, settings: Settings) -> str:
    """One digest over all that can change a result: inputs, model, settings and package version."""
    parts = (inputs_digest, model_digest, settings.voxel_digest())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def is_given_up(receipt: SeriesResult, fingerprint: str) -> bool:
    """Whether a series, as it is, has ended the process that worked on it too often to be tried again."""
    crashed = receipt.status is Status.FAILED and receipt.reason_code == Code.WORKER_CRASH
    return crashed and receipt.fingerprint == fingerprint


def says_the_same(one: SeriesResult, other: SeriesResult) -> bool:
    """Whether two results differ in nothing but when, where and in which run they were made."""
    return _without_circumstances(one) == _without_circumstances(other)


def _without_circumstances(result: SeriesResult) -> SeriesResult:
    result = replace(result, run_id="", attempt=0, started_at="", finished_at="", host="", versions={})
    return replace(result, peak_rss_mb=0.0, seal="")


def _read(out: Store, path: str) -> SeriesResult | None:
    try:
        return _adapter().validate_json(out.read(path))
    except (OSError, ValidationError):
        return None


@cache
def _adapter() -> TypeAdapter[SeriesResult]:
    return TypeAdapter(SeriesResult)
