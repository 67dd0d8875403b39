"""Records as Arrow rows: the schema follows from the record's own type hints."""

from collections.abc import Hashable, Iterable
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from itertools import islice
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import pyarrow as pa
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

Record = TypeVar("Record")

_ROWS_AT_A_TIME = 1000
"""Rows that exist as dictionaries at a time: those of a header take twice the memory of the record they become."""

_LENGTH_BYTES = 4

_SCALARS: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def schema_of(record: type) -> pa.Schema:
    """Arrow schema of a frozen dataclass: nested records become structs, tuples lists, dicts maps."""
    hints = get_type_hints(record)
    return pa.schema([pa.field(item.name, _arrow_type(hints[item.name])) for item in fields(record)])


def to_batch(record: type[Record], items: Iterable[Record]) -> pa.RecordBatch:
    """Records as one Arrow batch of `schema_of(record)`."""
    rows = _adapter(cast(Hashable, record)).dump_python(list(items))
    return pa.RecordBatch.from_pylist(rows, schema=schema_of(record))


def from_batch(record: type[Record], batch: pa.RecordBatch | pa.Table) -> list[Record]:
    """Records out of an Arrow batch or table that `to_batch` made."""
    table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
    validate = _adapter(cast(Hashable, record)).validate_python
    records: list[Record] = []
    for part in table.to_batches(max_chunksize=_ROWS_AT_A_TIME):
        records += validate(part.to_pylist(maps_as_pydicts="strict"))
    return records


def to_table(record: type[Record], items: Iterable[Record]) -> pa.Table:
    """Records without records in them as an Arrow table, few of them at a time as objects."""
    schema, remaining = schema_of(record), iter(items)
    batches = []
    while part := list(islice(remaining, _ROWS_AT_A_TIME)):
        columns = [pa.array([getattr(item, field.name) for item in part], field.type) for field in schema]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    return pa.Table.from_batches(batches, schema)


def pack(items: Any) -> bytes:
    """Records, or lists of plain values, as compressed JSON, for rows that only this package reads.

    Nested Arrow values take ten times as long to read. Headers of one series become a hundredth of their size.
    """
    content = to_json(items, inf_nan_mode="constants")
    return len(content).to_bytes(_LENGTH_BYTES) + cast(bytes, _codec().compress(content, asbytes=True))


def unpack(record: type[Record], content: bytes) -> list[Record]:
    """Records out of what `pack` made."""
    records: list[Record] = _adapter(cast(Hashable, record)).validate_json(_inflated(content))
    return records


def unpack_plain(content: bytes) -> Any:
    """Plain values out of what `pack` made."""
    return from_json(_inflated(content))


def _inflated(content: bytes) -> bytes:
    length = int.from_bytes(content[:_LENGTH_BYTES])
    return cast(bytes, _codec().decompress(content[_LENGTH_BYTES:], length, asbytes=True))


@cache
def _codec() -> pa.Codec:
    return pa.Codec("zstd", 1)


@cache
def _adapter(record: Hashable) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[record])  # type: ignore[valid-type]


def _arrow_type(hint: Any) -> pa.DataType:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _arrow_type(next(arg for arg in args if arg is not NoneType))
    if origin is tuple:
        return pa.list_(_arrow_type(args[0]))
    if origin is dict:
        return pa.map_(_arrow_type(args[0]), _arrow_type(args[1]))
    if is_dataclass(hint):
        return pa.struct(list(schema_of(hint)))  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return pa.string()
    return _SCALARS[hint]
