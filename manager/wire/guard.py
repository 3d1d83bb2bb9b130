"""What stands before every answer over HTTP: who may ask by which name, and what a browser may do with the answer."""

import ipaddress
import socket
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # what was served is asked for again, so that nobody runs a former release's console
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
EVERY = "*"
TOO_MUCH = {
    HTTPStatus.REQUEST_URI_TOO_LONG: "the address that is asked for is too long\n",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the headers are too large: cookies and tokens are among them\n",
}


class Guard:
    """Refuses what comes by a name that is not ours: a page elsewhere may have its own name point to this machine.

    Ours are addresses, names without a dot, those of this machine, and `names`; `*` admits every name. Nor is anything
    answered that a page of another origin asks for. `most`: bytes of the names and values of a request's headers, and
    as many of what it asks for; whoever sends more is told so, and hung up on.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], most: int) -> None:
        self._app = app
        self._most = most
        self._every = EVERY in names
        self._names = {each.lower() for each in (*names, socket.gethostname(), socket.getfqdn())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._excess(scope) or self._refusal(Headers(scope=scope))

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (refusal or self._app)(scope, receive, guarded)

    def _excess(self, scope: Scope) -> PlainTextResponse | None:
        if len(scope["raw_path"]) + len(scope["query_string"]) > self._most:
            status = HTTPStatus.REQUEST_URI_TOO_LONG
        elif sum(len(name) + len(value) for name, value in scope["headers"]) > self._most:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        else:
            return None
        return PlainTextResponse(TOO_MUCH[status], status, {"connection": "close"})

    def _refusal(self, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not self._is_ours(_name(host)):
            text = "this server is not known by the name in your request; if it should be, add it to IM_HTTP_NAMES\n"
            return PlainTextResponse(text, 421)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return PlainTextResponse("a page of another origin may not ask here\n", 403)
        return None

    def _is_ours(self, name: str) -> bool:
        if self._every or name in self._names or (name and "." not in name and ":" not in name):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.endswith(".localhost")
        return True


def _name(host: str) -> str:
    """The name or the address in a Host header."""
    name, _, port = host.lower().rpartition(":")
    if not name or not port.isdecimal():
        name = host.lower()
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name
