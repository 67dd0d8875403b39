"""A C-STORE SCP (PS3.4 Annex B): modalities and routers send to it, and it files what comes as it comes."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.transport import ThreadedAssociationServer

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.pacs.inbox import Inbox, RefusalError
from imaging_pipeline.pacs.settings import ReceiveSettings

_VERIFICATION = "1.2.840.10008.1.1"
_PDU_BYTES = 1 << 18
_GRACE_SECONDS = 10.0
_LOOK_SECONDS = 0.05


@contextmanager
def listening(settings: ReceiveSettings, inbox: Inbox, tell: Callable[[str], None]) -> Iterator[int]:
    """Listen until the block ends; then associations have a few seconds to finish.

    Args:
        settings: Where to listen, and who may send.
        inbox: Files instances.
        tell: Called with a line on each association that ended; from other threads.

    Yields:
        The port.

    Raises:
        PipelineError: `usage` where nobody can listen at this address.
    """
    ae = _entity(settings)
    accounts = _Accounts(inbox, tell)
    try:
        server = ae.start_server((settings.address, settings.port), block=False, evt_handlers=accounts.handlers())
    except OSError as error:
        message = f"cannot listen at {settings.address}:{settings.port}: {error.strerror}"
        raise PipelineError(Code.USAGE, message, "name a free port of this machine by --port") from None
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        _end(ae, server)


def _entity(settings: ReceiveSettings) -> AE:
    ae = AE(ae_title=settings.ae_title)
    ae.require_called_aet = True
    ae.require_calling_aet = list(settings.allow)
    ae.maximum_associations = settings.max_associations
    ae.maximum_pdu_size = _PDU_BYTES
    ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = settings.timeout_seconds
    # of several that a sender offers for one kind, the first one here that it knows is taken
    syntaxes = list(dict.fromkeys((ExplicitVRLittleEndian, *ALL_TRANSFER_SYNTAXES)))
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), syntaxes)
    ae.add_supported_context(_VERIFICATION)
    return ae


def _end(ae: AE, server: ThreadedAssociationServer) -> None:
    server.shutdown()
    until = time.monotonic() + _GRACE_SECONDS
    while server.active_associations and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    ae.shutdown()


class _Accounts:
    """What each association brought."""

    def __init__(self, inbox: Inbox, tell: Callable[[str], None]) -> None:
        self._inbox = inbox
        self._tell = tell
        self._lock = threading.Lock()
        self._counts: dict[int, Counter[str]] = {}

    def handlers(self) -> list[evt.EventHandlerType]:
        return [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda _: 0x0000),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]

    def _store(self, event: evt.Event) -> int | Dataset:
        request: Any = event.request
        content: BytesIO = request.DataSet
        head = b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta)
        try:
            self._inbox.file([head, content.getbuffer()], str(request.AffectedSOPInstanceUID))
        except RefusalError as refusal:
            self._count(event, f"refused {refusal}")
            answer = Dataset()
            answer.Status, answer.ErrorComment = refusal.status, refusal.comment
            return answer
        self._count(event, "")
        return 0x0000

    def _count(self, event: evt.Event, what: str) -> None:
        with self._lock:
            self._counts.setdefault(id(event.assoc), Counter())[what] += 1

    def _rejected(self, event: evt.Event) -> None:
        wanted = event.assoc.requestor.primitive
        called = "" if wanted is None else f" that calls {_readable(wanted.called_ae_title)}"
        self._tell(f"{_readable(event.assoc.requestor.ae_title)}: rejected an association{called}")

    def _closed(self, event: evt.Event) -> None:
        with self._lock:
            counts = self._counts.pop(id(event.assoc), None)
        if counts is None:
            return
        refused = [f"{count} {what}" for what, count in sorted(counts.items()) if what]
        told = ", ".join((f"{counts['']} instances", *refused))
        self._tell(f"{_readable(event.assoc.requestor.ae_title)}: {told}")


def _readable(title: str | None) -> str:
    """An AE title as somebody sent it: nothing in it moves a cursor."""
    return "".join(character if character.isprintable() else "?" for character in (title or "").strip()) or "?"
