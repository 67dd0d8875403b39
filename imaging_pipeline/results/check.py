"""A RESULTS held against itself: receipts against their seals, outputs and index against receipts, the audit log."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, fields

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.results import measurements
from imaging_pipeline.results.audit import LOG, Audit, Checked, check_audit
from imaging_pipeline.results.index import KEY, SCHEMA, kind_in, open_index, to_table
from imaging_pipeline.results.last_run import read_last_run
from imaging_pipeline.results.layout import receipt_path
from imaging_pipeline.results.receipt import Found, find_receipt
from imaging_pipeline.results.seal import canonical
from imaging_pipeline.results.tables import kind_of, open_table
from imaging_pipeline.settings import available_cores
from imaging_pipeline.stores import Store
from imaging_pipeline.stores.store import unreachable
from imaging_pipeline.stores.temporary import TEMPORARY_PREFIX

_SUBJECTS = "sub-"
_RUN_AGAIN = "run again: the series is computed anew"
_REBUILD = "python -m imaging_pipeline.index rebuild RESULTS, or run again"
_RESTORE = "see who could write to RESULTS; restore the file from a backup, or keep it as evidence and run again"

Advance = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """Something that is not as it was written.

    Attributes:
        code: What kind of thing it is.
        message: Which, with numbers.
        hint: What to do about it.
    """

    code: Code
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipts:
    """What the receipts of a RESULTS come to.

    Attributes:
        flaws: What is wrong with them and the files they name.
        rows: Series key and model name to the digest of the row that the index must have.
        measured: The same to the digests of the rows that the table of measurements must have.
        outputs: Paths that they name.
        run_ids: Runs that wrote them.
    """

    flaws: list[Flaw]
    rows: dict[tuple[str, str], str]
    measured: dict[tuple[str, str], list[str]]
    outputs: set[str]
    run_ids: set[str]


def check_receipts(out: Store, seal_key: bytes, paths: list[str], advance: Advance) -> Receipts:
    """Read every receipt and every file that one names, several at a time.

    Args:
        out: RESULTS.
        seal_key: Its seals are checked by this.
        paths: The receipts, by `receipt_paths`.
        advance: Called once for each of them.
    """
    told = Receipts(flaws=[], rows={}, measured={}, outputs=set(), run_ids=set())
    n_threads = max(out.at_once, min(available_cores(), 16))
    with ThreadPoolExecutor(n_threads, thread_name_prefix="verify") as pool:
        for found, flaws in pool.map(lambda path: _checked(out, path, seal_key), paths):
            told.flaws.extend(flaws)
            if found is not None and (receipt := found.receipt) is not None:
                key = (receipt.identity.series_key, receipt.model_name)
                told.rows[key] = _row_digests([receipt])[0]
                if measured := measurements.to_table(out, [receipt]).to_pylist():
                    told.measured[key] = sorted(map(_plain_digest, measured))
                told.outputs.update(receipt.output_digests)
                told.run_ids.add(receipt.run_id)
            advance()
    return told


def check_files(out: Store, outputs: set[str]) -> Iterator[Flaw]:
    """Files of series that no receipt names.

    Raises:
        PipelineError: `store-unreachable`.
    """
    try:
        for entry in out.list():
            is_unfinished = os.path.basename(entry.path).startswith(TEMPORARY_PREFIX)
            if entry.path.startswith(_SUBJECTS) and entry.path not in outputs and not is_unfinished:
                message = f"{entry.path} ({entry.size_bytes} bytes) is named by no receipt"
                hint = "left by a run that was killed or by a result that failed since: remove it, or run again"
                yield Flaw(code=Code.OUTPUT_UNLISTED, message=message, hint=hint)
    except OSError as error:
        raise unreachable(out, error) from None


def check_last_run(out: Store, seal_key: bytes) -> Iterator[Flaw]:
    """What `rerun` and `send` go by."""
    try:
        read_last_run(out, seal_key)
    except PipelineError as error:
        if error.code is Code.RUN_EDITED:
            yield Flaw(code=error.code, message=error.message, hint=error.hint)


def check_index(out: Store, rows: dict[tuple[str, str], str]) -> Iterator[Flaw]:
    """Rows of the index held against the receipts."""
    kind = kind_in(out)
    seen: set[tuple[str, str]] = set()
    try:
        table = open_index(out, kind or "delta").read() if kind else to_table([])
    except PipelineError as error:
        yield Flaw(code=error.code, message=error.message, hint=error.hint)
        return
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist(maps_as_pydicts="strict"):
            key, what = (row[KEY[0]], row[KEY[1]]), f"series {row[KEY[0]]}, model {row[KEY[1]]}"
            if key not in rows:
                yield Flaw(code=Code.ROW_EXTRA, message=f"{what}: a row without a receipt", hint=_REBUILD)
            elif key in seen:
                yield Flaw(code=Code.ROW_EXTRA, message=f"{what}: more than one row", hint=_REBUILD)
            elif _digest(row) != rows[key]:
                message = f"{what}: the row says something else than the receipt"
                yield Flaw(code=Code.ROW_DIFFERENT, message=message, hint=_REBUILD)
            seen.add(key)
    for series_key, model in sorted(rows.keys() - seen):
        message = f"series {series_key}, model {model}: a receipt without a row"
        yield Flaw(code=Code.ROW_MISSING, message=message, hint=_REBUILD)


def check_measurements(out: Store, measured: dict[tuple[str, str], list[str]]) -> Iterator[Flaw]:
    """Rows of the table of measurements held against the files beside the masks."""
    form = measurements.form(out)
    found: dict[tuple[str, str], list[str]] = {}
    try:
        kind = kind_of(out, form)
        table = open_table(out, form, kind).read() if kind else form.schema.empty_table()
    except PipelineError as error:
        yield Flaw(code=error.code, message=error.message, hint=error.hint)
        return
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            found.setdefault((row[KEY[0]], row[KEY[1]]), []).append(_plain_digest(row))
    for key in sorted(found.keys() | measured.keys()):
        if sorted(found.get(key, ())) != measured.get(key, []):
            codes = {(True, False): Code.ROW_EXTRA, (False, True): Code.ROW_MISSING}
            code = codes.get((key in found, key in measured), Code.ROW_DIFFERENT)
            counts = f"{len(found.get(key, ()))} rows, {len(measured.get(key, ()))} beside the mask"
            message = f"measurements of series {key[0]}, model {key[1]}: {counts}, and they differ"
            yield Flaw(code=code, message=message, hint=_REBUILD)


def check_log(audit: Audit, run_ids: set[str]) -> tuple[Checked, list[Flaw]]:
    """The audit log, and whether it knows every run that left a receipt.

    Raises:
        PipelineError: `store-unreachable`.
    """
    try:
        checked = check_audit(audit)
    except OSError as error:
        raise unreachable(audit.out, error) from None
    flaws = [Flaw(code=Code.AUDIT_BROKEN, message=f"{LOG}: {text}", hint=_RESTORE) for text in checked.breaks]
    for run_id in sorted(run_ids - checked.run_ids):
        message = f"{LOG}: run {run_id} has left receipts, and there is no line about it"
        hint = f"older versions kept no log: run again; else {_RESTORE}"
        flaws.append(Flaw(code=Code.AUDIT_BROKEN, message=message, hint=hint))
    return checked, flaws


def _checked(out: Store, path: str, seal_key: bytes) -> tuple[Found | None, list[Flaw]]:
    found = find_receipt(out, path, seal_key)
    if found is None:
        return None, []
    receipt = found.receipt
    if receipt is None:
        return found, [Flaw(code=Code.RECEIPT_DAMAGED, message=f"{path} cannot be read", hint=_RUN_AGAIN)]
    flaws = []
    if not found.is_sealed:
        no_seal = "carries no seal: older versions wrote none"
        why = "is not as it was written: its seal does not fit" if receipt.seal else no_seal
        flaws.append(Flaw(code=Code.RECEIPT_EDITED, message=f"{path} {why}", hint=_RUN_AGAIN))
    elif path != receipt_path(receipt.identity.series_key, receipt.model_name):
        flaws.append(
            Flaw(code=Code.RECEIPT_EDITED, message=f"{path} is the receipt of another series", hint=_RUN_AGAIN)
        )
    for name, digest in receipt.output_digests.items():
        if not name.startswith(_SUBJECTS) or ".." in name.split("/"):  # whoever edits a receipt may name any file
            continue
        if (lies_there := out.digest(name)) == digest:
            continue
        if lies_there is None:
            flaws.append(Flaw(code=Code.OUTPUT_MISSING, message=f"{name} is not there", hint=_RUN_AGAIN))
        else:
            message = f"{name} has SHA-256 {lies_there[:16]}..., the receipt says {digest[:16]}..."
            flaws.append(Flaw(code=Code.OUTPUT_CHANGED, message=message, hint=_RUN_AGAIN))
    return found, flaws


def _row_digests(results: list[SeriesResult]) -> list[str]:
    return [_digest(row) for row in to_table(results).to_pylist(maps_as_pydicts="strict")]


def _digest(row: dict[str, object]) -> str:
    """Of what a row says; a column that did not exist yet when it was written says what the default says."""
    told = {name: _DEFAULTS.get(name) if row.get(name) is None else row[name] for name in SCHEMA.names}
    return hashlib.sha256(canonical(told)).hexdigest()


def _plain_digest(row: dict[str, object]) -> str:
    return hashlib.sha256(canonical(row)).hexdigest()


def _default_values() -> dict[str, object]:
    values: dict[str, object] = {}
    for item in fields(SeriesResult):
        if item.default is not MISSING:
            values[item.name] = list(item.default) if isinstance(item.default, tuple) else item.default
        elif item.default_factory is not MISSING:
            values[item.name] = item.default_factory()
    return values


_DEFAULTS = _default_values()
