"""The page's server: on this machine only, with a fixed list of addresses, closed to other sites' pages."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..jobs import EvaluationError
from .sheet import Sheet

ADDRESS = "127.0.0.1"
MOST_BYTES = 4096
"""Of a request's body."""

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_PICTURE = re.compile(r"/pictures/([0-9]{1,9})")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RatingServer(ThreadingHTTPServer):
    """Serves one sheet at `url` while `serve_forever` runs."""

    daemon_threads = True

    def __init__(self, sheet: Sheet, port: int = 0) -> None:
        """Raises EvaluationError where the port is taken; port 0 is any free one."""
        self.sheet = sheet
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise EvaluationError(f"--port {port} cannot be used ({error}). Give another one, or 0 for any.") from error

    @property
    def url(self) -> str:
        """For the browser."""
        return f"http://{ADDRESS}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: RatingServer
    timeout = 30

    def do_GET(self) -> None:
        """The page, its files, the pairs, and the pictures by number."""
        if not self._from_here():
            return self._refuse(HTTPStatus.FORBIDDEN)
        if self.path in _FILES:
            name, kind = _FILES[self.path]
            return self._send(HTTPStatus.OK, (Path(__file__).parent / name).read_bytes(), kind)
        if self.path == "/pairs":
            return self._send_json(HTTPStatus.OK, self.server.sheet.state())
        try:
            place = _PICTURE.fullmatch(self.path)
            if place is None:
                raise KeyError(self.path)
            picture = self.server.sheet.picture(int(place[1])).read_bytes()
        except (KeyError, OSError):
            return self._refuse(HTTPStatus.NOT_FOUND)
        return self._send(HTTPStatus.OK, picture, "image/png")

    def do_POST(self) -> None:
        """Keeps an answer: {"picture": number, "given": {"composition": 1..5, "image": 1..5} or null}."""
        if not self._from_here() or self.headers.get("Origin") != f"http://{self.headers['Host']}":
            return self._refuse(HTTPStatus.FORBIDDEN)
        if self.path != "/rate":
            return self._refuse(HTTPStatus.NOT_FOUND)
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if self.headers.get_content_type() != "application/json":
            return self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        try:
            asked = json.loads(self.rfile.read(int(length)))
            if not isinstance(asked, dict) or asked.keys() != {"picture", "given"}:
                raise ValueError("expected picture and given")
            if type(asked["picture"]) is not int or not isinstance(asked["given"], dict | None):
                raise ValueError("expected a number for picture, and an object or null for given")
            self.server.sheet.rate(asked["picture"], asked["given"])
        except (KeyError, ValueError) as error:
            return self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except (OSError, EvaluationError) as error:
            return self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)})
        return self._send_json(HTTPStatus.OK, {})

    def _from_here(self) -> bool:
        """Whether the request is this page's own.

        A name other than this machine's in Host is a site that made its name point here; browsers say in Sec-Fetch-Site
        whose page asks. Following a link to the page is allowed.
        """
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        foreign = self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        follows = self.path == "/" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        return host in (ADDRESS, "localhost", "::1") and (not foreign or follows)

    def _refuse(self, status: HTTPStatus) -> None:
        self._send_json(status, {"error": status.phrase})

    def _send_json(self, status: HTTPStatus, content: Any) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: every picture would be a line."""
