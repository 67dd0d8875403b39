"""Outputs of receipts to a PACS: what is not there yet goes in small batches, and each object is noted on arrival."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.host import now
from imaging_pipeline.pacs.channel import Channel, Instance, SendError, open_channel, read_instance
from imaging_pipeline.pacs.destination import DicomNode, parse_destination
from imaging_pipeline.pacs.settings import SendSettings
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results.receipt import read_receipt
from imaging_pipeline.results.sent import Commitment, SentObject, read_sent, sent_digests, write_sent
from imaging_pipeline.stores import Store, at_once

BATCH = 16
"""Objects of one association: what one of them costs is spread, and few are asked for again where it breaks."""

SUFFIX = ".dcm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An output that is to reach the destination.

    Attributes:
        path: Relative to RESULTS.
        digest: SHA-256, as the receipt has it.
        stored: What is known of it, where it is there and only the promise to keep it is missing.
    """

    path: str
    digest: str
    series_key: str
    model_name: str
    stored: SentObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What became of one object: it is where it should be, or the error says why not."""

    item: Item
    error: PipelineError | None = None

    @property
    def is_passing(self) -> bool:
        """Whether it is worth another try."""
        return isinstance(self.error, SendError) and self.error.is_passing

    @property
    def is_of_all(self) -> bool:
        """Whether others would meet the same error now."""
        return self.error is not None and (not isinstance(self.error, SendError) or self.error.is_link)


class Delivery:
    """Sends objects of one RESULTS to one destination."""

    def __init__(self, out: Store, settings: SendSettings) -> None:
        """Connect to nothing yet.

        Args:
            out: RESULTS.
            settings: Names the destination.
        """
        self.settings = settings
        self.destination = str(parse_destination(settings.destination))
        self._out = out
        self._known: set[str] | None = None

    def receipts_of(self, series_keys: Iterable[str], model: str) -> Iterator[SeriesResult]:
        """Receipts of some series for a model, read as they are asked for; those that cannot be read are left out."""
        with at_once(self._out) as work:
            yield from filter(None, work(lambda key: read_receipt(self._out, key, model), series_keys))

    def look(self) -> None:
        """See what the destination has.

        Raises:
            OSError: RESULTS cannot be read.
        """
        if self._known is None:
            self._known = sent_digests(self._out, self.destination)

    def missing(self, receipts: Iterable[SeriesResult]) -> tuple[list[Item], set[str]]:
        """Objects of these receipts that the destination has not got yet, and digests of those that it has.

        Call `look` before.
        """
        items: list[Item] = []
        there: set[str] = set()
        for item in _items(receipts):
            asks = self.settings.commitment and item.digest in self._there()
            sent = read_sent(self._out, self.destination, item.digest) if asks else None
            if item.digest not in self._there() or (asks and (sent is None or sent.commitment is Commitment.FAILED)):
                items.append(item)
            elif sent is not None and sent.commitment is not Commitment.COMMITTED:
                items.append(replace(item, stored=sent))
            else:
                there.add(item.digest)
        return items, there

    def send(self, items: Sequence[Item], stopping: Callable[[], bool]) -> Iterator[Delivered]:
        """Send a batch; what is not yielded was not tried.

        Args:
            items: At most `BATCH` of them.
            stopping: Asked before each object.
        """
        arrived = [item.stored for item in items if item.stored is not None]
        with ExitStack() as stack:
            ready: list[tuple[Item, Instance]] = []
            for item in items:
                if item.stored is None:
                    try:
                        ready.append((item, self._fetched(item, stack)))
                    except SendError as error:
                        yield Delivered(item=item, error=error)
            for done, sent in self._stored(ready, stopping):
                if sent is None or not self.settings.commitment:
                    yield done
                if sent is not None:
                    arrived.append(sent)
        if self.settings.commitment and arrived and not stopping():
            yield from self._committed(arrived, items)

    def _there(self) -> set[str]:
        assert self._known is not None
        return self._known

    def _fetched(self, item: Item, stack: ExitStack) -> Instance:
        """The file on this machine, as long as its content is that of the receipt."""
        try:
            file = stack.enter_context(self._out.fetched(item.path))
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(item, error.strerror or str(error)) from None
        if found != item.digest:
            raise _unreadable(item, f"its SHA-256 is {found[:12]}..., its receipt says {item.digest[:12]}...")
        return read_instance(file)

    def _stored(
        self, ready: Sequence[tuple[Item, Instance]], stopping: Callable[[], bool]
    ) -> Iterator[tuple[Delivered, SentObject | None]]:
        """Store one after the other; where the connection is lost, those behind share its error."""
        if not ready or stopping():
            return
        n_tried = 0
        try:
            with open_channel(self.settings, [instance for _, instance in ready]) as channel:
                for item, instance in ready:
                    if stopping():
                        return
                    try:
                        sent = self._store(channel, item, instance)
                    except SendError as error:
                        if error.is_link:
                            raise
                        yield Delivered(item=item, error=error), None
                    else:
                        yield Delivered(item=item), sent
                    n_tried += 1
        except PipelineError as error:
            for item, _ in ready[n_tried:]:
                yield Delivered(item=item, error=error), None

    def _store(self, channel: Channel, item: Item, instance: Instance) -> SentObject:
        status = channel.store(instance)
        sent = SentObject(
            destination=self.destination,
            path=item.path,
            series_key=item.series_key,
            model_name=item.model_name,
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            digest=item.digest,
            size_bytes=instance.size_bytes,
            status=status,
            sent_at=now(),
            commitment=Commitment.PENDING if self.settings.commitment else Commitment.NONE,
        )
        self._note(sent)
        return sent

    def _note(self, sent: SentObject) -> None:
        write_sent(self._out, sent)
        self._there().add(sent.digest)

    def _committed(self, arrived: Sequence[SentObject], items: Sequence[Item]) -> Iterator[Delivered]:
        """Ask for the promise to keep what has arrived."""
        from imaging_pipeline.pacs.commitment import Reference, commit

        by_digest = {item.digest: item for item in items}
        node = parse_destination(self.settings.destination)
        assert isinstance(node, DicomNode)
        references = [
            Reference(sop_class_uid=sent.sop_class_uid, sop_instance_uid=sent.sop_instance_uid) for sent in arrived
        ]
        try:
            answer = commit(node, self.settings, references)
        except PipelineError as error:
            told = SendError(Code.SEND_NOT_COMMITTED, error.message, error.hint)
            yield from (Delivered(item=by_digest[sent.digest], error=told) for sent in arrived)
            return
        for sent in arrived:
            kept = sent.sop_instance_uid in answer.committed and sent.sop_instance_uid not in answer.failed
            state = Commitment.COMMITTED if kept else Commitment.FAILED
            noted = replace(sent, commitment=state, transaction_uid=answer.transaction_uid, answered_at=now())
            self._note(noted)
            item = by_digest[sent.digest]
            reason = answer.failed.get(sent.sop_instance_uid, 0)
            yield Delivered(item=item, error=None if kept else _not_kept(self.destination, item, reason))


def _items(receipts: Iterable[SeriesResult]) -> Iterator[Item]:
    for receipt in receipts:
        if receipt.status is Status.DONE:
            for path, digest in sorted(receipt.output_digests.items()):
                if Path(path).suffix == SUFFIX:
                    series_key = receipt.identity.series_key
                    yield Item(path=path, digest=digest, series_key=series_key, model_name=receipt.model_name)


def _unreadable(item: Item, why: str) -> SendError:
    message = f"{item.path} cannot be sent: {why}"
    return SendError(Code.SEND_UNREADABLE, message, "run again: an output that is not as it was written is made anew")


def _not_kept(destination: str, item: Item, reason: int) -> SendError:
    message = f"{destination} does not promise to keep {item.path}: failure reason 0x{reason:04X}"
    return SendError(Code.SEND_NOT_COMMITTED, message, "see to its log; the next run sends the object again")
