"""Tables of a RESULTS as Delta tables: one committer, each batch once, few files however many commits there are."""

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.host import give_back_memory
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.results.delta_rows import batches_of, rows_of
from imaging_pipeline.results.tables import (
    KEY,
    Batch,
    Form,
    Key,
    Keys,
    Rows,
    State,
    damaged,
    keys_in,
)
from imaging_pipeline.settings import IndexSettings
from imaging_pipeline.stores import Store, is_url
from imaging_pipeline.stores.store import Table

_TRIES = 8
_PAUSE_SECONDS = 0.05
_FULL_BYTES, _FULL_FILES = 1 << 18, 64
"""Files of this size (some 900 rows) are left as they are, or of this share of a large table.

What a compaction holds, eight times the size of the file that it writes, is bounded so, and how many files there are.
"""

_LEAN = WriterProperties(compression="SNAPPY")
"""As rows that are appended; Zstandard, a compaction's own choice, holds five megabytes more for its columns."""

_NO_ROOM = r"no space left|quota exceeded|read-only file system|permission denied|os error (28|122|30|13)\b"
"""A disk that takes nothing is no damage of the table."""

_NO_HOST = "[]|^%\\"
"""What delta-rs cannot have in a path, or takes for something else."""

_ROOM_BYTES = 1 << 20
"""What a commit may take of a disk."""

_CONFIGURATION: dict[str, str | None] = {
    "delta.logRetentionDuration": "interval 7 days",  # of the log alone; how old data stays is index.keep_hours
    "delta.setTransactionRetentionDuration": "interval 7 days",  # numbers of batches, one for each run
}


class DeltaIndex:
    """See `Index`.

    New series are appended, which costs the same however many there are. Where rows replace others, files that hold
    old ones are written anew, in the same commit. Whoever commits beside us is noticed by the version: our own
    commit is not repeated blindly, but thought over again.
    """

    def __init__(self, out: Store, settings: IndexSettings, form: Form) -> None:
        """Open nothing yet.

        Args:
            out: RESULTS.
            settings: When files are made one, and how long old ones are kept.
            form: What it holds.

        Raises:
            PipelineError: `settings-invalid`, see `check_place`.
        """
        self._out = out
        self._settings = settings
        self._form = form
        self._where = f"{out}/{form.folder}"
        check_place(self._where)
        self._version: int | None = None
        self._known = Keys()
        self._n_small = 0

    def commit(self, results: Iterable[SeriesResult], batch: Batch | None = None) -> None:
        """See `Index`.

        Raises:
            PipelineError: `index-busy`, `index-damaged` or `store-unreachable`.
        """
        rows = self._form.to_rows(results)
        self._check_room()
        for number in range(_TRIES):
            time.sleep(_PAUSE_SECONDS * number)
            try:
                if self._commit(rows, batch):
                    break
            except CommitFailedError:
                self._version = None
            except (DeltaError, OSError) as error:
                raise self._damaged(error) from None
        else:
            raise PipelineError(
                Code.INDEX_BUSY,
                f"{self._where}: another process has changed it at the same moment, {_TRIES} times",
                "let one run at a time work on a RESULTS; run again and the rows follow from the receipts",
            )
        self._n_small += 1
        if self._settings.compact_commits and self._n_small >= self._settings.compact_commits:
            self._compact()

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """See `Index`."""
        try:
            place = self._place()
            return rows_of(DeltaTable(place.uri, storage_options=place.options), place, columns)
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See `Index`."""
        try:
            place = self._place()
            yield from batches_of(DeltaTable(place.uri, storage_options=place.options), place, columns)
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None

    def keys(self) -> Keys:
        """See `Index`."""
        try:
            table = self._table()
            return Keys() if table is None else self._keys_in(table)
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None

    def state(self) -> State | None:
        """See `Index`."""
        try:
            if (table := self._table()) is None:
                return None
            files = pa.table(table.get_add_actions())
            n_rows, n_bytes = (sum(files.column(name).to_pylist()) for name in ("num_records", "size_bytes"))
            return State(version=table.version(), n_rows=n_rows, n_files=files.num_rows, size_bytes=n_bytes)
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None

    def tidy(self) -> None:
        """See `Index`: also removes files that no version of the last hours names."""
        if self._n_small:
            self._compact(at_last=True)

    def rebuild(self, results: Callable[[], Iterable[SeriesResult]]) -> None:
        """See `Index`: by one commit where the table still takes one, so that readers of older versions are left alone.

        A damaged one is set aside first.
        """
        self._version = None
        try:
            self._overwrite(results())
        except PipelineError as error:
            if error.code is not Code.INDEX_DAMAGED:
                raise
            self._out.set_aside(self._form.folder)
            self._overwrite(results())
        self._n_small += 1
        self.tidy()

    def _overwrite(self, results: Iterable[SeriesResult]) -> None:
        self._check_room()
        try:
            place, form = self._place(), self._form
            rows = pa.RecordBatchReader.from_batches(form.schema, form.to_batches(results))
            how: dict[str, Any] = {"mode": "overwrite", "schema_mode": "overwrite", **self._about()}
            if self._table() is None:
                how["configuration"] = _CONFIGURATION
            write_deltalake(place.uri, rows, storage_options=place.options, **how)
        except (DeltaError, OSError) as error:
            raise self._damaged(error) from None

    def _commit(self, rows: Rows, batch: Batch | None) -> bool:
        """Whether rows are in, now or before; False where somebody else has made the table meanwhile."""
        table = self._table()
        if table is None:
            return not rows.table.num_rows or self._create(rows, batch)
        if batch is not None and (table.transaction_version(batch.writer) or 0) >= batch.number:
            return True
        known = self._keys_in(table)
        how: dict[str, Any] = {"schema_mode": "merge", "commit_properties": _once(batch)}
        if any(key in known for key in rows.keys):
            write_deltalake(table, rows.table, mode="overwrite", predicate=_of(rows.keys), **how)
        elif rows.table.num_rows:
            write_deltalake(table, rows.table, mode="append", **how)
        known.remove(rows.keys)
        known.add(keys_in(rows.table.to_batches()))
        self._version = table.version()
        return True

    def _create(self, rows: Rows, batch: Batch | None) -> bool:
        place = self._place()
        how: dict[str, Any] = {"configuration": _CONFIGURATION, "storage_options": place.options, **self._about()}
        try:
            write_deltalake(place.uri, rows.table, commit_properties=_once(batch), **how)
        except DeltaError:
            if DeltaTable.is_deltatable(place.uri, place.options):
                return False
            raise
        return True

    def _keys_in(self, table: DeltaTable) -> Keys:
        """Keys of all rows: read where somebody else has committed since the last look, else remembered."""
        if self._version != table.version():
            self._known = Keys(keys_in(batches_of(table, self._place(), KEY)))
            self._version = table.version()
        return self._known

    def _check_room(self) -> None:
        """A full disk is refused here, where delta-rs would panic on the screen, and so is one that is gone.

        delta-rs would make RESULTS anew beside the place where the disk belongs.
        """
        if is_url(self._where):
            return
        try:
            n_bytes = shutil.disk_usage(self._where.removesuffix(self._form.folder)).free
        except OSError as error:
            hint = "mend the mount, then run again: rows follow from the receipts"
            raise PipelineError(Code.OUT_NOT_WRITABLE, f"{self._where}: {error.strerror}", hint) from None
        if n_bytes < _ROOM_BYTES:
            message = f"{self._where}: No space left on device: {n_bytes} bytes are free, {_ROOM_BYTES} are needed"
            raise PipelineError(Code.OUT_FULL, message, "free space, then run again: rows follow from the receipts")

    def _compact(self, *, at_last: bool = False) -> None:
        """A run does not end because its index stays in many files: the next one tries again."""
        try:
            self._check_room()
            table = self._table()
            if table is None:
                return
            is_ours = table.version() == self._version
            n_bytes = sum(pa.table(table.get_add_actions()).column("size_bytes").to_pylist())
            full = max(_FULL_BYTES, n_bytes // _FULL_FILES)
            table.optimize.compact(target_size=full, max_concurrent_tasks=1, writer_properties=_LEAN)
            table.create_checkpoint()
            if at_last:
                keep = self._settings.keep_hours
                table.vacuum(retention_hours=keep, dry_run=False, enforce_retention_duration=False, full=True)
                table.cleanup_metadata()
            self._version = table.version() if is_ours else None
            self._n_small = 0
            give_back_memory()
        except (DeltaError, OSError, PipelineError):
            logging.getLogger(__name__).warning("%s cannot be compacted", self._where, exc_info=True)

    def _table(self) -> DeltaTable | None:
        place = self._place()
        if not DeltaTable.is_deltatable(place.uri, place.options):
            return None
        return DeltaTable(place.uri, storage_options=place.options)

    def _about(self) -> dict[str, str]:
        return {"name": self._form.name, "description": self._form.description}

    def _place(self) -> Table:
        """Where it is; credentials may have changed since the last time."""
        return self._out.table(self._form.folder)

    def _damaged(self, error: Exception) -> PipelineError:
        text = re.sub(r"\x1b\[\d*m", "", str(error))  # delta-rs colours its messages
        text = " ".join(text.split())[:300]
        if is_url(self._where) and isinstance(error, OSError):
            hint = "see to the store, or choose index.format=parquet, which needs less of it; run again, rows follow"
            return PipelineError(Code.STORE_UNREACHABLE, f"{self._where}: {text}", f"{hint} from the receipts")
        if re.search(_NO_ROOM, text, re.IGNORECASE):
            hint = "free space or mend permissions, then run again: rows follow from the receipts"
            return PipelineError(Code.WRITE_FAILED, f"{self._where}: {text}", hint)
        return damaged(self._where, text)


def check_place(where: str) -> None:
    """Refuse a folder that delta-rs panics over: it makes the host name of a URL of the whole path.

    Raises:
        PipelineError: `settings-invalid`.
    """
    if not is_url(where) and (found := sorted(set(where) & set(_NO_HOST))):
        message = f"{where}: Delta tables cannot lie below a folder with {' '.join(found)} in its name"
        raise PipelineError(Code.SETTINGS_INVALID, message, "name another --out, or --set index.format=parquet")


def _once(batch: Batch | None) -> CommitProperties:
    """No blind repetition where another commit came first; and the number by which a batch is known again."""
    numbers = [] if batch is None else [Transaction(batch.writer, batch.number)]
    return CommitProperties(max_commit_retries=0, app_transactions=numbers)


def _of(keys: set[Key]) -> str:
    """What rows of some series are known by, in SQL."""
    series_column, model_column = KEY
    by_model: dict[str, list[str]] = {}
    for series_key, model_name in sorted(keys):
        by_model.setdefault(model_name, []).append(_quoted(series_key))
    return " OR ".join(
        f"({model_column} = {_quoted(model)} AND {series_column} IN ({', '.join(series)}))"
        for model, series in by_model.items()
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
