"""Records as Arrow rows: the schema follows from the record's own type hints."""

from collections.abc import Hashable, Iterable
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import pyarrow as pa
from pydantic import TypeAdapter

Record = TypeVar("Record")

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
    records: list[Record] = _adapter(cast(Hashable, record)).validate_python(batch.to_pylist(maps_as_pydicts="strict"))
    return records


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
