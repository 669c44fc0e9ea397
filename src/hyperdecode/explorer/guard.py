"""Who may talk to the explorer: pages of this very server, on this computer, that know its token."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyperdecode.explorer.asked import LARGEST_REQUEST

__all__ = ["Guard"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # The address holds the token.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Let a request through whose host, origin, token and size are right; the rest is answered in one line.

    A page elsewhere can make a browser send requests to this computer. By another name for 127.0.0.1 (DNS rebinding)
    it shows in ``Host``, from another origin in ``Origin`` or ``Sec-Fetch-Site``; and it does not know the token.

    Parameters
    ----------
    app : ASGI application
        It sees paths without the token.
    token : str
        First part of every path.
    port : int
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the explorer speaks HTTP alone, not {scope['type']}")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer: ASGIApp | None = self._refusal(scope)
        if answer is None:
            answer, scope = self._app, self._inside(scope)
        await answer(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return PlainTextResponse("another host: open the address that hyperdecode explore printed\n", 403)
        if any(origin not in self._origins for origin in headers.getlist("origin")):
            return PlainTextResponse("another origin: only the explorer's own page may ask\n", 403)
        near = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        if not near and not _is_link(scope["method"], headers):
            return PlainTextResponse("another site: only the explorer's own page may ask\n", 403)
        if not secrets.compare_digest(_split(scope["path"])[0].encode(), self._token.encode()):
            return PlainTextResponse("no such page: open the address that hyperdecode explore printed\n", 404)
        return _wrong_size(scope["method"], headers)

    def _inside(self, scope: Scope) -> MutableMapping[str, Any]:
        path = _split(scope["path"])[1]
        return {**scope, "path": path, "raw_path": path.encode()}


def _is_link(method: str, headers: Headers) -> bool:
    """Say whether somebody followed a link, out of a terminal in another page, say."""
    sent = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return method == "GET" and sent == ("navigate", "document")


def _split(path: str) -> tuple[str, str]:
    """First part of a path, and what follows it with its slash."""
    first, slash, rest = path.removeprefix("/").partition("/")
    return first, slash + rest


def _wrong_size(method: str, headers: Headers) -> PlainTextResponse | None:
    """Refuse a body of unknown size or one that is too large; the server reads no more than was announced."""
    length = headers.get("content-length", "" if method == "POST" else "0")
    # In chunks a body may go on whatever length was announced beside it.
    if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
        return PlainTextResponse("a request says how long it is (Content-Length)\n", 411)
    if len(length) > 9 or int(length) > LARGEST_REQUEST:
        return PlainTextResponse(f"a request has at most {LARGEST_REQUEST} bytes\n", 413)
    return None
