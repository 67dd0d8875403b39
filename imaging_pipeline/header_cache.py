"""Headers of files that have not changed since an earlier run read them: a nightly run re-reads only what is new.

They hold Patient IDs, and paths that people name after patients: they are kept encrypted, under a key that is derived
from the secret of RESULTS. Packets stay packed: of those that are kept only the list of files is opened.
"""

import base64
import hashlib
import hmac
import io
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.fernet import Fernet, InvalidToken
from numpy.typing import NDArray

from imaging_pipeline import __version__
from imaging_pipeline.errors import PipelineError
from imaging_pipeline.intake.packets import PACKETS, listed_in, milliseconds, pruned
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.job import Job
from imaging_pipeline.stores import Store

FOLDER = "cache/headers"

_FORMAT = 2
_SUFFIX = ".bin"
_MOST_SEGMENTS = 8
"""Files of the cache; one more, and what still counts is written anew as one."""


def open_cache(job: Job, secret: bytes, keywords: Collection[str], *, writes: bool) -> "HeaderCache | None":
    """The cache of a RESULTS folder; None where the settings want none.

    Args:
        job: Names RESULTS and settings.
        secret: That of its identities.
        keywords: Further attributes that headers must hold.
        writes: Whether it may be added to.
    """
    if not job.settings.intake.header_cache:
        return None
    return HeaderCache(job.out, secret, keywords, writes=writes)


class HeaderCache:
    """Packets by path, size and modification time in milliseconds; a damaged file of it counts as not there."""

    def __init__(self, out: Store, secret: bytes, keywords: Collection[str], *, writes: bool = True) -> None:
        """Read nothing yet.

        Args:
            out: RESULTS.
            secret: Its key is derived from this.
            keywords: Further attributes that headers hold; packets with others are not used.
            writes: Whether `keep` writes.
        """
        about = {"format": _FORMAT, "version": __version__, "keywords": sorted(keywords)}
        self._prefix = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        self._box = Fernet(base64.urlsafe_b64encode(hmac.new(secret, b"header cache", hashlib.sha256).digest()))
        self._out = out
        self._writes = writes

    def split(self, files: pa.Table) -> tuple[Pile, pa.Table]:
        """Packets of files that are known as they are, and the files that must be read.

        Args:
            files: All that are there now, as rows of `FileRef`.
        """
        listing = _Listing.of(files)
        known = Pile.of(self._known(listing))
        return known, files.filter(pa.array(~listing.known))

    def keep(self, known: Pile, fresh: Pile) -> None:
        """Add packets that were read; where many files of the cache have come together, write what counts as one.

        Args:
            known: What `split` knew.
            fresh: Packets that the cache did not have.
        """
        if not self._writes:
            return
        added, has_news = fresh.tables(), fresh.columns["files_at"].null_count < len(fresh)
        segments = self._segments()
        if len(segments) + has_news > _MOST_SEGMENTS:
            added = chain(added, known.tables())
        else:
            segments = []
        with suppress(PipelineError):  # a run goes on without a cache
            if has_news or segments:
                self._out.publish(self._next_segment(), self._sealed(added))
            self._remove([*segments, *self._outdated()])

    def _known(self, listing: "_Listing") -> Iterator[pa.Table]:
        for segment in reversed(self._segments()):  # the newest packets of a file are found first
            if listing.known.all():
                return
            found = listing.known.copy()  # several packets of a segment may speak of one file
            for part in self._read(segment):
                yield from listing.still_true(pa.Table.from_batches([part], PACKETS), found)
            listing.known[:] = found

    def _segments(self) -> list[str]:
        return [path for path in self._paths() if path.startswith(f"{FOLDER}/{self._prefix}-")]

    def _outdated(self) -> list[str]:
        return [path for path in self._paths() if not path.startswith(f"{FOLDER}/{self._prefix}-")]

    def _paths(self) -> list[str]:
        try:
            return sorted(entry.path for entry in self._out.list(FOLDER) if entry.path.endswith(_SUFFIX))
        except OSError:
            return []

    def _next_segment(self) -> str:
        numbers = [path.removesuffix(_SUFFIX).rpartition("-")[2] for path in self._segments()]
        return f"{FOLDER}/{self._prefix}-{1 + max(map(int, numbers), default=0):08}{_SUFFIX}"

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            with suppress(OSError):
                self._out.remove(path)

    def _read(self, path: str) -> Iterator[pa.RecordBatch]:
        """What can be read of a file: a part that is damaged, or cut off, is left out."""
        with suppress(OSError), self._out.fetched(path) as file, file.open("rb") as parts:
            for part in parts:
                with suppress(InvalidToken, pa.ArrowException):
                    yield from list(pa.ipc.open_stream(self._box.decrypt(part.rstrip())))

    def _sealed(self, packets: Iterable[pa.Table]) -> Iterator[bytes]:
        """What lasts of packets, part by part."""
        for part in packets:
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, PACKETS) as stream:
                stream.write_table(part.filter(part["files"].is_valid()).combine_chunks())
            yield self._box.encrypt(sink.getvalue()) + b"\n"


@dataclass(frozen=True, slots=True, eq=False)
class _Listing:
    """Files that are there now, and which of them are known: arrays, for there may be millions."""

    paths: pa.Array
    sizes: NDArray[np.int64]
    times: NDArray[np.int64]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, files: pa.Table) -> "_Listing":
        """Nothing is known yet."""
        times = milliseconds(files["modified_at"].to_numpy())
        paths, sizes = files["path"].combine_chunks(), files["size_bytes"].to_numpy()
        return cls(paths, sizes, times, np.zeros(files.num_rows, np.bool_))

    def still_true(self, packets: pa.Table, found: NDArray[np.bool_]) -> Iterator[pa.Table]:
        """What a part of the cache says of files that are as they were and not known yet; they are marked as found."""
        counts, paths, sizes, times = listed_in(packets)
        places = pc.index_in(paths, value_set=self.paths).fill_null(-1).to_numpy()
        holds = places >= 0
        rows = places[holds]
        same = (sizes[holds] == self.sizes[rows]) & (times[holds] == self.times[rows]) & ~self.known[rows]
        holds[holds] = same
        ends = np.cumsum(counts)
        n_true = np.diff(np.concatenate([[0], np.cumsum(holds)])[np.concatenate([[0], ends])])
        yield packets.filter(pa.array(n_true == counts))
        for row in np.flatnonzero((n_true > 0) & (n_true < counts)).tolist():
            here = slice(ends[row] - counts[row], ends[row])
            wanted = set(paths[here].filter(pa.array(holds[here])).to_pylist())
            yield pa.Table.from_batches([pruned(packets.slice(row, 1), wanted)])
        found[places[holds]] = True
