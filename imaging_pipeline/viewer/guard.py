"""Who may ask the viewer for anything: the browser of the person who started it, and no page of anybody else.

The address is this machine's own, but every web page and every user of the machine can reach it. So a random token has
to be known, which the command prints; the Host must be the server's own (names that others let point here are none);
and what comes from another origin is refused, other ports of this machine among them.
"""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Checks requests.

    Attributes:
        port: Of the server.
        token: What a browser has to know.
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def url(self) -> str:
        """What to open."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Set-Cookie for a browser that has shown the token: scripts cannot read it, other sites not send it."""
        return f"{self._cookie_name}={self.token}; Path=/; HttpOnly; SameSite=Strict"

    def knows(self, token: str) -> bool:
        """Whether a token is the right one."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def refusal(self, headers: Mapping[str, str], *, writes: bool = False, token: str = "") -> str:
        """Why a request is refused; empty where it is not.

        Args:
            headers: Of the request, names as HTTP has them.
            writes: Whether it changes something.
            token: In its address, at the first visit.
        """
        host = headers.get("Host", "")
        if host not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}"):
            return "another host is asked for than this server"
        origin = headers.get("Origin")
        if origin not in ((f"http://{host}",) if writes else (f"http://{host}", None)):
            return "the request comes from another origin"
        if token:
            return "" if self.knows(token) else "the token is another one"
        if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return "the request comes from another site"
        return "" if self.knows(self._cookie_in(headers)) else "open the address that the command has printed"

    @property
    def _cookie_name(self) -> str:
        return f"viewer-{self.port}"  # cookies know no ports

    def _cookie_in(self, headers: Mapping[str, str]) -> str:
        try:
            found = SimpleCookie(headers.get("Cookie", "")).get(self._cookie_name)
        except CookieError:
            return ""
        return "" if found is None else found.value
