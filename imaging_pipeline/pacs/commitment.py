"""Storage Commitment Push Model (PS3.4 Annex J): who stored objects promises to keep them."""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context, evt

from imaging_pipeline.errors import Code
from imaging_pipeline.pacs.association import associated, lost
from imaging_pipeline.pacs.channel import SendError
from imaging_pipeline.pacs.destination import DicomNode, parse_address
from imaging_pipeline.pacs.settings import SendSettings

_PUSH_MODEL = UID("1.2.840.10008.1.20.1")
_ITS_INSTANCE = UID("1.2.840.10008.1.20.1.1")
_REQUEST = 1
_SYNTAXES: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]

Handlers = list[evt.EventHandlerType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An object that somebody is asked to keep."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the other side said.

    Attributes:
        transaction_uid: Of the request.
        committed: SOP Instance UIDs that it keeps.
        failed: SOP Instance UID to Failure Reason (0008,1197) of those that it does not.
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: dict[str, int] = field(default_factory=dict)


def commit(node: DicomNode, settings: SendSettings, references: Collection[Reference]) -> Answer:
    """Ask a node to keep objects, and wait for what it says.

    Args:
        node: Where they were sent.
        settings: How long to wait, and where the answer may come in.
        references: The objects.

    Raises:
        SendError: `send-not-committed` where no answer came, or none can; `send-unreachable`, `send-refused`.
    """
    waiting = _Waiting(str(generate_uid()))
    handlers: Handlers = [(evt.EVT_N_EVENT_REPORT, waiting.take)]
    context = build_context(_PUSH_MODEL, _SYNTAXES)
    with _listening(settings, handlers), associated(node, settings, [context], handlers) as association:
        try:
            answer, _ = association.send_n_action(
                _request(waiting.transaction_uid, references),
                _REQUEST,
                _PUSH_MODEL,
                _ITS_INSTANCE,
            )
        except (RuntimeError, ValueError) as error:
            raise lost(node, str(error)) from None
        if answer.get("Status") != 0x0000:
            told = f"0x{answer.Status:04X}" if "Status" in answer else "nothing"
            raise _not_committed(f"{node} answers {told} to a request to keep {len(references)} objects")
        found = waiting.wait(settings.commitment_seconds)
    if found is None:
        raise _not_committed(f"{node} has not answered within {settings.commitment_seconds:g} s whether it keeps them")
    return found


class _Waiting:
    """The report of one transaction, whichever way it comes in."""

    def __init__(self, transaction_uid: str) -> None:
        self.transaction_uid = transaction_uid
        self._arrived = threading.Event()
        self._answer: Answer | None = None

    def take(self, event: evt.Event) -> tuple[int, None]:
        """Handler of N-EVENT-REPORT: event type 1 is success, 2 says which objects failed (PS3.4 section J.3.3)."""
        told = event.event_information
        if told.get("TransactionUID") != self.transaction_uid:  # of an earlier run that did not wait
            return 0x0000, None
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason", 0))
            for item in told.get("FailedSOPSequence", ())
        }
        committed = frozenset(str(item.ReferencedSOPInstanceUID) for item in told.get("ReferencedSOPSequence", ()))
        self._answer = Answer(transaction_uid=self.transaction_uid, committed=committed, failed=failed)
        self._arrived.set()
        return 0x0000, None

    def wait(self, seconds: float) -> Answer | None:
        self._arrived.wait(seconds)
        return self._answer


@contextmanager
def _listening(settings: SendSettings, handlers: Handlers) -> Iterator[None]:
    """Let the other side call back, where the settings say at which address."""
    if not settings.commitment_listen:
        yield
        return
    ae = AE(ae_title=settings.calling_ae)
    ae.require_called_aet = True
    ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = settings.timeout_seconds
    # who keeps objects calls us in the role of the provider (PS3.7 section D.3.3.4)
    ae.add_supported_context(_PUSH_MODEL, _SYNTAXES, scu_role=True, scp_role=True)
    try:
        server = ae.start_server(parse_address(settings.commitment_listen), block=False, evt_handlers=handlers)
    except OSError as error:
        message = f"cannot listen at {settings.commitment_listen} for the answer: {error.strerror}"
        raise _not_committed(message, "name a free port in send.commitment_listen") from None
    assert server is not None
    try:
        yield
    finally:
        server.shutdown()


def _request(transaction_uid: str, references: Collection[Reference]) -> Dataset:
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = []
    for reference in references:
        item = Dataset()
        item.ReferencedSOPClassUID = reference.sop_class_uid
        item.ReferencedSOPInstanceUID = reference.sop_instance_uid
        request.ReferencedSOPSequence.append(item)
    return request


def _not_committed(message: str, hint: str = "") -> SendError:
    hint = hint or (
        "see that it knows our AE title, address and port (send.commitment_listen); the next run asks again"
    )
    return SendError(Code.SEND_NOT_COMMITTED, message, hint)
