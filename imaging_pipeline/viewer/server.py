"""The viewer's requests: a page, its data, volumes, and reviews."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import parse_qs, unquote, urlsplit

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.viewer.guard import Guard
from imaging_pipeline.viewer.shown import Shown

_LARGEST_BODY = 64 << 10
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".gz": "application/gzip",
}
_ENTER = b'<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>viewer</title>'
"""A redirect by the page itself: one by status would count as the other site's where a link there led here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request gets.

    Attributes:
        status: Of HTTP.
        kind: File name suffix that says what the content is.
        content: The body.
        cookie: Set-Cookie; empty for none.
    """

    status: HTTPStatus = HTTPStatus.OK
    kind: str = ".json"
    content: bytes = b"{}"
    cookie: str = ""


def open_server(shown: Shown, library: bytes, port: int = 0) -> tuple[ThreadingHTTPServer, Guard]:
    """A server on the loopback address, which answers once `serve_forever` is called, and its guard.

    Args:
        shown: What it serves.
        library: NiiVue.
        port: 0 takes any that is free.

    Raises:
        OSError: The port is taken.
    """
    server = ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)
    guard = Guard(port=server.server_port)
    server.RequestHandlerClass = partial(_Handler, shown, library, guard)
    server.daemon_threads = True
    return server, guard


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "viewer", ""

    def __init__(self, shown: Shown, library: bytes, guard: Guard, *arguments: object) -> None:
        self._shown = shown
        self._library = library
        self._guard = guard
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        token = parse_qs(address.query).get("token", [""])[0] if address.path == "/" else ""
        if refusal := self._guard.refusal(self.headers, token=token):  # type: ignore[arg-type]
            self._send(_error(HTTPStatus.FORBIDDEN, refusal))
        elif token:
            self._send(Answer(kind=".html", content=_ENTER, cookie=self._guard.cookie))
        else:
            self._answer(partial(self._get, address.path))

    def do_POST(self) -> None:
        if refusal := self._guard.refusal(self.headers, writes=True):  # type: ignore[arg-type]
            self._send(_error(HTTPStatus.FORBIDDEN, refusal))
        elif self.headers.get_content_type() != "application/json":
            self._send(_error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "reviews are sent as application/json"))
        elif not 0 < (length := _length(self.headers.get("Content-Length"))) <= _LARGEST_BODY:
            self._send(_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"1 to {_LARGEST_BODY} bytes are taken"))
        else:
            self._answer(partial(self._post, self.path, self.rfile.read(length)))

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Addresses name series keys, and once the token: they stay out of logs."""

    def _answer(self, make: Callable[[], Answer]) -> None:
        try:
            answer = make()
        except PipelineError as error:
            logging.getLogger(__name__).warning("%s", error)
            answer = _error(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error.code}: {error.message}; {error.hint}")
        self._send(answer)

    def _get(self, path: str) -> Answer:
        if path == "/":
            return Answer(kind=".html", content=_asset("viewer.html"))
        if path in ("/viewer.js", "/viewer.css"):
            return Answer(kind=path[path.rindex(".") :], content=_asset(path[1:]))
        if path == "/niivue.js":
            return Answer(kind=".js", content=self._library)
        if path == "/api/series":
            return Answer(content=json.dumps(self._shown.series()).encode())
        parts = [unquote(part) for part in path.split("/")]
        if len(parts) == 5 and parts[1] == "files":
            content = self._shown.file(*parts[2:])
            if content is not None:
                return Answer(kind=".png" if parts[4] == "preview" else ".gz", content=content)
        return _error(HTTPStatus.NOT_FOUND, "there is no such thing")

    def _post(self, path: str, content: bytes) -> Answer:
        if path != "/api/reviews":
            return _error(HTTPStatus.NOT_FOUND, "there is no such thing")
        problem = self._shown.review(content)
        return _error(HTTPStatus.BAD_REQUEST, problem) if problem else Answer(status=HTTPStatus.CREATED)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {**_HEADERS, "Content-Type": _TYPES[answer.kind], "Content-Length": str(len(answer.content))}
        if answer.cookie:
            headers["Set-Cookie"] = answer.cookie
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)


def _error(status: HTTPStatus, text: str) -> Answer:
    return Answer(status=status, content=json.dumps({"error": text}).encode())


def _asset(name: str) -> bytes:
    return files("imaging_pipeline.viewer").joinpath(name).read_bytes()


def _length(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0
