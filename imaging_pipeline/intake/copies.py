"""Copies of an instance in different series: the only thing about headers that no series can tell by itself."""

from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaging_pipeline.intake.packets import lengths, planes_in
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.intake.series import instance_of, precedence
from imaging_pipeline.records import SliceHeader

LEFT_OUT = "left_out"
"""Column of packets: places of the planes within, of which another series has the copy that is taken."""


def mark_copies(packets: Pile) -> Pile:
    """Packets with `LEFT_OUT` and `n_planes` in place of their digests of instances, which nobody needs any more.

    Only packets that may share an instance with another series are opened.

    Args:
        packets: All packets of instances.
    """
    shared = _in_several_buckets(packets.columns)
    suspects = _holders(packets.columns, shared) if len(shared) else np.array([], np.int64)
    left_out: list[list[int]] = [[] for _ in range(len(packets))]
    for row, place in _losers(packets, suspects, set(shared.tolist())):
        left_out[row].append(place)
    n_planes = pc.list_value_length(packets.columns["instances"])
    return packets.told({"n_planes": n_planes, LEFT_OUT: pa.array(left_out, pa.list_(pa.int32()))}, drop="instances")


def _in_several_buckets(packets: pa.Table) -> NDArray[np.int64]:
    """Digests of instances that occur in more than one bucket."""
    instances = _flat(packets)
    buckets = np.repeat(packets["bucket"].to_numpy(), lengths(packets["instances"]))
    order = np.argsort(instances, kind="stable")
    instances, buckets = instances[order], buckets[order]
    differs = (instances[1:] == instances[:-1]) & (buckets[1:] != buckets[:-1])
    return np.unique(instances[1:][differs])


def _holders(packets: pa.Table, shared: NDArray[np.int64]) -> NDArray[np.int64]:
    """Packets with any of these instances."""
    rows = np.repeat(np.arange(packets.num_rows), lengths(packets["instances"]))
    return np.unique(rows[np.isin(_flat(packets), shared)])


def _losers(packets: Pile, suspects: NDArray[np.int64], shared: set[int]) -> list[tuple[int, int]]:
    """Packet and place of each plane that is not the one to take, unless both are of one series."""
    best: dict[tuple[str, int | None], tuple[tuple[bool, str, int], int]] = {}
    buckets = packets.columns["bucket"]
    for row in suspects.tolist():
        bucket, planes = buckets[row].as_py(), _shared_planes(packets, row, shared)
        for _, plane in planes:
            rank = precedence(plane), bucket
            best[instance_of(plane)] = min(best.get(instance_of(plane), rank), rank)
    return [
        (row, place)
        for row in suspects.tolist()
        for place, plane in _shared_planes(packets, row, shared)
        if best[instance_of(plane)][1] != buckets[row].as_py()
    ]


def _shared_planes(packets: Pile, row: int, shared: set[int]) -> list[tuple[int, SliceHeader]]:
    instances = packets.columns["instances"][row].as_py()
    planes = planes_in(packets.content(row))
    pairs = enumerate(zip(instances, planes, strict=True))
    return [(place, plane) for place, (instance, plane) in pairs if instance in shared]


def _flat(packets: pa.Table) -> NDArray[np.int64]:
    flat = packets["instances"].combine_chunks().flatten()
    return cast(NDArray[np.int64], flat.to_numpy())
