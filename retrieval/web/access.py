"""Access control: who is answered, and the headers by which browsers protect the page."""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_POLICY = "Content-Security-Policy"
HEADERS = {
    _POLICY: (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        names: of this server in addresses; None: any. Where only this machine is answered, a page
            elsewhere whose name was made to point here (DNS rebinding) would otherwise read all.
    """

    names: frozenset[str] | None = LOCAL_NAMES
    token: str | None = None  # in every request, or once as /?token=; None: none is needed
    cookie: str = "textvr"  # its name; the link sets it
    # What the cookie holds, another one in each process.
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)


class AccessControl:
    """An ASGI application around another: refuses requests, and sets headers on all answers.

    Args:
        media_origins: other servers that the page may play videos from.
    """

    def __init__(self, app: ASGIApp, access: Access, media_origins: Sequence[str] = ()) -> None:
        self._app, self._access = app, access
        policy = HEADERS[_POLICY]
        for origin in media_origins:
            policy = policy.replace("media-src 'self'", f"media-src 'self' {origin}")
        self._headers = HEADERS | {_POLICY: policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        answer = self._intercept(Request(scope)) or self._app
        await answer(scope, receive, send_with_headers)

    def _intercept(self, request: Request) -> Response | None:
        """Return a refusal, or what sets the cookie; None where the request may pass."""
        names, token = self._access.names, self._access.token
        if names is not None and _get_host(request) not in names:
            return _refuse(request, HTTPStatus.FORBIDDEN, "this server answers to localhost only")
        if token is None:
            return None
        given = request.query_params.get("token")
        if request.url.path == "/" and given is not None and _is_same(given, token):
            return self._set_cookie(request)
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _is_same(value.strip(), token):
            return None
        if _is_same(request.cookies.get(self._access.cookie, ""), self._access.session):
            return None
        text = "a token is needed: open the address that serve.py has printed"
        answer = _refuse(request, HTTPStatus.UNAUTHORIZED, text)
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def _set_cookie(self, request: Request) -> Response:
        """Set the cookie, and redirect to the same address without the token."""
        rest = [item for item in request.query_params.multi_items() if item[0] != "token"]
        answer = RedirectResponse(f"/?{urlencode(rest)}" if rest else "/", HTTPStatus.SEE_OTHER)
        answer.set_cookie(
            self._access.cookie, self._access.session, httponly=True, samesite="strict"
        )
        return answer


def _get_host(request: Request) -> str:
    """Return the name in the Host header, without the port."""
    name, colon, port = request.headers.get("host", "").lower().rpartition(":")
    return name if colon and port.isdecimal() else name + colon + port


def _is_same(given: str, secret: str) -> bool:
    """Compare in constant time, which tells nobody how much of the secret is right."""
    return hmac.compare_digest(given.encode(), secret.encode())


def _refuse(request: Request, status: HTTPStatus, text: str) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": text}, status)
    return PlainTextResponse(text + "\n", status)
