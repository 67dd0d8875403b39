"""STOW-RS (PS3.18 section 10.5): one request an instance, so that each has an answer of its own."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.pacs.channel import Instance, SendError
from imaging_pipeline.pacs.destination import WebService, is_loopback
from imaging_pipeline.pacs.settings import SendSettings
from imaging_pipeline.pacs.tls import client_context, read_token

_PIECE_BYTES = 1 << 20
_FAILED = "00081198"  # Failed SOP Sequence
_REASON = "00081197"  # Failure Reason
_DUPLICATE = 0x0111
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
_NOT_LET_IN = frozenset((401, 403, 404, 405, 407))


class StowChannel:
    """Requests to one service, on a connection that stays open."""

    def __init__(self, service: WebService, pool: PoolManager, headers: dict[str, str]) -> None:
        """Send nothing yet.

        Args:
            service: Where to.
            pool: Holds the connection.
            headers: Of every request.
        """
        self._service = service
        self._pool = pool
        self._headers = headers

    def store(self, instance: Instance) -> str:
        """See `Channel`."""
        boundary = token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            **self._headers,
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(head) + instance.size_bytes + len(tail)),
        }
        try:
            body = _body(head, instance, tail)
            answer = self._pool.request("POST", self._service.url, body=body, headers=headers)
        except (HTTPError, OSError) as error:
            raise _lost(self._service, error) from None
        return self._judge(answer)

    def _judge(self, answer: BaseHTTPResponse) -> str:
        status, where = answer.status, self._service
        if status in (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT):
            reasons = _failures(answer.data)
            is_stored = status != HTTPStatus.CONFLICT and not reasons
            if is_stored or set(reasons) == {_DUPLICATE}:
                return str(status)
            told = ", ".join("none told" if reason is None else f"0x{reason:04X}" for reason in reasons or [None])
            message = f"{where} answers {status}, failure reason {told}"
            raise SendError(Code.SEND_REJECTED, message, "its log says what it finds wrong with the object")
        message = f"{where} answers {status} {answer.reason or ''}".rstrip()
        if status in _PASSING:
            raise SendError(Code.SEND_UNREACHABLE, message, "see to its log", is_passing=True, is_link=True)
        if status in _NOT_LET_IN or 300 <= status < 400:
            hint = "see that the URL is that of its studies, and that token or certificate are valid there"
            raise SendError(Code.SEND_REFUSED, message, hint, is_link=True)
        raise SendError(Code.SEND_REJECTED, message, "its log says what it finds wrong with the object")


@contextmanager
def open_service(service: WebService, settings: SendSettings) -> Iterator[StowChannel]:
    """A connection to a DICOMweb service; see `open_channel`."""
    headers = {"Accept": "application/dicom+json"}
    if settings.token_file is not None:
        _check_secrecy(service)
        headers["Authorization"] = f"Bearer {read_token(settings.token_file)}"
    context: ssl.SSLContext = client_context(settings)
    timeout = Timeout(connect=settings.timeout_seconds, read=settings.timeout_seconds)
    # a redirection would carry the token, and patients' data, to somebody who was not named
    options: dict[str, Any] = {"retries": False, "timeout": timeout, "maxsize": 1, "ssl_context": context}
    if not settings.check_host_name:
        options["assert_hostname"] = False
    with PoolManager(**options) as pool:
        yield StowChannel(service, pool, headers)


def _body(head: bytes, instance: Instance, tail: bytes) -> Iterator[bytes]:
    yield head
    with instance.file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece
    yield tail


def _failures(content: bytes) -> list[int | None]:
    """Failure reasons of a Store Instances Response (PS3.18 section I.2); None where there is one that is not told."""
    try:
        answer = json.loads(content or b"{}")
        answer = answer[0] if isinstance(answer, list) and answer else answer
        items = answer.get(_FAILED, {}).get("Value") or []
        return [(item.get(_REASON, {}).get("Value") or [None])[0] for item in items]
    except (ValueError, AttributeError, TypeError):  # XML, by a service that does not heed Accept
        return [None] if _FAILED.encode() in content else []


def _check_secrecy(service: WebService) -> None:
    parts = urlsplit(service.url)
    if parts.scheme.lower() == "http" and not is_loopback(parts.hostname or ""):
        message = f"a token would go to {parts.hostname} in the clear"
        raise PipelineError(Code.SETTINGS_INVALID, message, "name an https URL, or leave send.token_file away")


def _lost(service: WebService, error: Exception) -> SendError:
    why = " ".join(str(error.args[-1] if error.args else error).split())[:200] or type(error).__name__
    hint = "see that it runs and that the URL is right; what is left goes with the next run, or by "
    hint += "python -m imaging_pipeline.send"
    return SendError(Code.SEND_UNREACHABLE, f"{service}: {why}", hint, is_passing=True, is_link=True)
