"""Where objects are sent, as a user names it."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from imaging_pipeline.errors import Code, PipelineError

_NODE = re.compile(r"([ -?A-\[\]-~]{1,16})@(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:@/\[\]]+)):(\d{1,5})")
_FORMS = "write CALLED_AE@host:port for C-STORE, or https://host/.../studies for STOW-RS"


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomNode:
    """An application entity that takes C-STORE.

    Attributes:
        called_ae: Its AE title.
        host: Its name or address.
        port: Of TCP.
    """

    called_ae: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.called_ae}@{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebService:
    """A DICOMweb service that takes STOW-RS.

    Attributes:
        url: Of its studies, or of one study.
    """

    url: str

    def __str__(self) -> str:
        return self.url


Destination = DicomNode | WebService


def parse_destination(text: str) -> Destination:
    """A destination: `CALLED@host:port`, or the URL of a DICOMweb service's studies.

    Raises:
        PipelineError: `settings-invalid`.
    """
    if re.match(r"[A-Za-z]+://", text):
        return WebService(url=_web(text))
    found = _NODE.fullmatch(text.strip())
    if found is None or not 0 < int(found[4]) < 65536 or not found[1].strip():
        raise _invalid(f"{text!r} is no destination")
    return DicomNode(called_ae=found[1].strip(), host=found[2] or found[3], port=int(found[4]))


def parse_address(text: str) -> tuple[str, int]:
    """Address and port of this machine: `0.0.0.0:11113`, `[::]:11113`.

    Raises:
        PipelineError: `settings-invalid`.
    """
    host, _, port = text.rpartition(":")
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        address = ""
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise PipelineError(
            Code.SETTINGS_INVALID, f"{text!r} is no address and port of this machine", "write 0.0.0.0:11113"
        )
    return address, int(port)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _web(text: str) -> str:
    parts = urlsplit(text.strip())
    try:
        known = parts.port is None or parts.port > 0
    except ValueError:
        known = False
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or not known:
        raise _invalid(f"{text!r} is no URL of http or https")
    if parts.username is not None or parts.query or parts.fragment:
        message = f"the URL of {parts.hostname} holds a user name, a query or a fragment"
        hint = "name the plain URL; a token or certificate goes into the file that send.token_file or so names"
        raise PipelineError(Code.SETTINGS_INVALID, message, hint)
    if not re.search(r"/studies(/[0-9.]+)?/?$", parts.path):
        raise _invalid(f"{text!r} does not end in /studies")
    return parts.geturl().rstrip("/")


def _invalid(message: str) -> PipelineError:
    return PipelineError(Code.SETTINGS_INVALID, message, _FORMS)
