"""What lies in STUDIES: files, headers, series; packed throughout, and not read again where nothing has changed."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from imaging_pipeline.errors import Code
from imaging_pipeline.header_cache import open_cache
from imaging_pipeline.host import give_back_memory
from imaging_pipeline.identity import open_keys
from imaging_pipeline.intake.copies import mark_copies
from imaging_pipeline.intake.finder import Finder, choose, gather
from imaging_pipeline.intake.found import Skips, Tasks
from imaging_pipeline.intake.objects import list_objects
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.intake.rules import SelectionRules
from imaging_pipeline.job import Job
from imaging_pipeline.records import FileRef
from imaging_pipeline.rows import to_table
from imaging_pipeline.runner import Runner
from imaging_pipeline.sources import Opener
from imaging_pipeline.stores import LocalStore, RemoteStore, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found.

    Attributes:
        tasks: Volumes that are taken.
        skipped: Series that are left out.
        files: Files by what they are: `dicom`, or a reason code.
        n_copies: Files that hold second copies of instances.
        others: Packets of the files that hold no instance.
        listing: Digest of all files that are there, their sizes and times.
    """

    tasks: Tasks
    skipped: Skips
    files: Counter[str]
    n_copies: int
    others: Pile = field(repr=False)
    listing: bytes

    @property
    def lasts(self) -> bool:
        """Whether another look at the same files would find the same: nothing depends on the hour or on luck."""
        hasty = Code.NOT_SETTLED.value in self.skipped.column("code").unique().to_pylist()
        return not hasty and not self.files[Code.UNREADABLE_FILE]

    def reasons(self) -> Iterator[tuple[str, str]]:
        """Path and reason of each file that holds no instance."""
        return ((item.path, f"{item.code}: {item.message}") for item in self.others.skipped())


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyor:
    """Looks at STUDIES.

    Attributes:
        studies: Where DICOM lies.
        job: Names RESULTS and settings.
        rules: Which volumes are taken.
        runner: Lists, reads and groups.
    """

    studies: Store
    job: Job
    rules: SelectionRules
    runner: Runner

    def survey(self, before: Survey | None = None, *, dry_run: bool = False) -> Survey:
        """List files, read headers of those that the cache does not know, find series and choose among them.

        Args:
            before: An earlier survey by the same rules and settings: it is what is found where all files are as they
                were.
            dry_run: RESULTS is left as it is.
        """
        files = self._listed()
        listing = _digest(files)
        if before is not None and before.lasts and before.listing == listing:
            return before
        keys = open_keys(self.job.out, self.job.settings.identity, create=not dry_run)
        packets = self._packets(files, keys.secret, dry_run=dry_run)
        counts = _counted(packets.columns)
        others = Pile.of(packets.others().tables())  # in a file of their own: that of all packets is let go
        del files
        packets = mark_copies(packets.instances())
        give_back_memory()
        finder = Finder(keys, self.job.settings, self.rules, self.job.model_name)
        found = gather(self.runner.find_series(packets, finder))
        del packets
        give_back_memory()
        tasks, skipped = choose(found, self.rules)
        n_copies = found.n_copies
        del found
        give_back_memory()
        return Survey(tasks=tasks, skipped=skipped, files=counts, n_copies=n_copies, others=others, listing=listing)

    def _listed(self) -> pa.Table:
        """All files, in the order of their paths: those of a series mostly stand together."""
        if isinstance(self.studies, LocalStore):
            exclude = self.job.out.root if isinstance(self.job.out, LocalStore) else None
            files = self.runner.list_files(self.studies.root, exclude)
        else:
            assert isinstance(self.studies, RemoteStore)
            files = to_table(FileRef, list_objects(self.studies, exclude=self.job.out))
        return files.sort_by("path").combine_chunks()

    def _packets(self, files: pa.Table, secret: bytes, *, dry_run: bool) -> Pile:
        """Packets of all files, of those alone that the cache does not know freshly read."""
        keywords = self.rules.keywords()
        cache = open_cache(self.job, secret, keywords, writes=not dry_run)
        known, changed = (Pile.of([]), files) if cache is None else cache.split(files)
        opener = Opener(self.job.settings.storage)
        read = self.runner.read_headers(changed, keywords, opener) if changed.num_rows else iter(())
        fresh = Pile.of(read, beside=known)
        give_back_memory()
        if cache is not None:
            cache.keep(known, fresh)
        return known.plus(fresh)


def _counted(packets: pa.Table) -> Counter[str]:
    """Files by what they are."""
    counts = packets.group_by("code").aggregate([("n_files", "sum")]).to_pylist()
    return Counter({row["code"] or "dicom": row["n_files_sum"] for row in counts})


def _digest(files: pa.Table) -> bytes:
    digest = hashlib.blake2b()
    for column in files.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers()[1:]:  # the first one says which values are there: all
                digest.update(buffer)
    return digest.digest()
