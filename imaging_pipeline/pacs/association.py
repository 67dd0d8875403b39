"""C-STORE (PS3.4 Annex B, PS3.7 section 9.1.1): the bytes of each file as they lie there."""

import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from pydicom import dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from imaging_pipeline.errors import Code
from imaging_pipeline.pacs.channel import Instance, SendError
from imaging_pipeline.pacs.destination import DicomNode
from imaging_pipeline.pacs.settings import SendSettings
from imaging_pipeline.pacs.tls import client_context

_PLAIN = (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
_STORED = frozenset((0x0000, 0xB000, 0xB006, 0xB007, 0x0111))
"""Success, the three warnings of PS3.4 table B.2-1, and Duplicate SOP Instance: the object is there."""
_NOT_AUTHORISED = 0x0124
_PROCESSING_FAILURE = 0x0110
_OUT_OF_RESOURCES = range(0xA700, 0xA800)


class StoreChannel:
    """An association that takes instances."""

    def __init__(self, node: DicomNode, association: Association) -> None:
        """Take an association that stands.

        Args:
            node: Its other side.
            association: With a presentation context for each kind of instance, where the other side takes it.
        """
        self._node = node
        self._association = association
        contexts = association.accepted_contexts
        self._accepted = {(context.abstract_syntax, context.transfer_syntax[0]) for context in contexts}

    def store(self, instance: Instance) -> str:
        """See `Channel`."""
        kind, syntax = UID(instance.sop_class_uid), UID(instance.transfer_syntax_uid)
        try:
            if (kind, syntax) in self._accepted:
                answer = self._association.send_c_store(instance.file)
            elif syntax in _PLAIN and (kind, ImplicitVRLittleEndian) in self._accepted:
                answer = self._association.send_c_store(dcmread(instance.file))
            else:
                raise _not_taken(self._node, kind, syntax)
        except (RuntimeError, OSError) as error:  # the association is gone
            raise lost(self._node, str(error)) from None
        status = answer.get("Status")
        if status is None:
            raise lost(self._node, "no answer to C-STORE")
        if status not in _STORED:
            raise _refused(self._node, status)
        return f"{status:04X}"


@contextmanager
def open_association(
    node: DicomNode, settings: SendSettings, instances: Collection[Instance]
) -> Iterator[StoreChannel]:
    """An association for these instances; see `open_channel`."""
    kinds = dict.fromkeys((UID(item.sop_class_uid), UID(item.transfer_syntax_uid)) for item in instances)
    also = {(kind, UID(ImplicitVRLittleEndian)): None for kind, syntax in kinds if syntax in _PLAIN}
    contexts = [build_context(kind, syntax) for kind, syntax in {**kinds, **also}]
    before, _config.STORE_SEND_CHUNKED_DATASET = _config.STORE_SEND_CHUNKED_DATASET, True
    try:
        with associated(node, settings, contexts) as association:
            yield StoreChannel(node, association)
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before


@contextmanager
def associated(
    node: DicomNode,
    settings: SendSettings,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[evt.EventHandlerType] = (),
) -> Iterator[Association]:
    """An association with a node, released when the block ends.

    Args:
        node: The other side.
        settings: Who we are, TLS and timeouts.
        contexts: What is proposed.
        handlers: Of what comes in over it.

    Raises:
        SendError: It does not come about.
    """
    ae = AE(ae_title=settings.calling_ae)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = settings.timeout_seconds
    every = [(evt.EVT_CONN_OPEN, _without_delay), *handlers]
    tls = (client_context(settings), node.host) if settings.tls else None
    try:
        association = ae.associate(
            node.host, node.port, list(contexts), ae_title=node.called_ae, tls_args=tls, evt_handlers=every
        )
    except OSError as error:  # the host's name
        raise lost(node, error.strerror or str(error)) from None
    if not association.is_established:
        raise _why_not(node, settings, association)
    try:
        yield association
    finally:
        association.release()


def _without_delay(event: evt.Event) -> None:
    """A request is several small packets, and each would wait for the one before to be acknowledged."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def lost(node: DicomNode, why: str) -> SendError:
    """A node that does not answer, or not any more."""
    hint = "see that it runs and that host and port are right; what is left goes with the next run, or by "
    hint += "python -m imaging_pipeline.send"
    return SendError(Code.SEND_UNREACHABLE, f"{node}: {why}", hint, is_passing=True, is_link=True)


def _why_not(node: DicomNode, settings: SendSettings, association: Association) -> SendError:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        is_passing = answer.result == 0x02
        message = f"{node} rejects the association: {answer.reason_str.lower()}"
        hint = f"make {settings.calling_ae} known there, and see that it is called {node.called_ae}"
        if is_passing:
            hint = "it may take more a little later"
        code = Code.SEND_UNREACHABLE if is_passing else Code.SEND_REFUSED
        return SendError(code, message, hint, is_passing=is_passing, is_link=True)
    if association.rejected_contexts:
        kinds = sorted({UID(context.abstract_syntax or "").name for context in association.rejected_contexts})
        hint = "let it take these SOP classes, or name another destination"
        return SendError(Code.SEND_REJECTED, f"{node} takes none of {', '.join(kinds)}", hint)
    return lost(node, _connection_error(node, settings) or "it does not answer a request for an association")


def _connection_error(node: DicomNode, settings: SendSettings) -> str:
    """What a second try to connect says, for pynetdicom only logs it; empty where it works."""
    try:
        with socket.create_connection((node.host, node.port), settings.timeout_seconds) as plain:
            if settings.tls:
                client_context(settings).wrap_socket(plain, server_hostname=node.host).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""


def _not_taken(node: DicomNode, kind: UID, syntax: UID) -> SendError:
    message = f"{node} does not take {kind.name} in {syntax.name}"
    return SendError(Code.SEND_REJECTED, message, "let it take this SOP class, or name another destination")


def _refused(node: DicomNode, status: int) -> SendError:
    """Why it was not stored; not the Error Comment (0000,0902), which may name the patient."""
    meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", "unknown status"))[1]
    message = f"{node} answers 0x{status:04X}, {meaning}"
    if status == _NOT_AUTHORISED:
        return SendError(Code.SEND_REFUSED, message, "grant us the right to store there")
    if status in _OUT_OF_RESOURCES or status == _PROCESSING_FAILURE:
        return SendError(Code.SEND_REJECTED, message, "see to its disk and its log, then send again", is_passing=True)
    return SendError(Code.SEND_REJECTED, message, "its log says what it finds wrong with the object")
