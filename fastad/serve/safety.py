"""What stands before every request: size, rate, origin, token, and headers of every answer."""

import hashlib
import hmac
import json
import time
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastad.serve.settings import LOOPBACK, Settings

COOKIE = "fastad_session"
OPEN = ("/health", "/ready", "/login", "/static/style.css", "/static/icon.svg")
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
BURST_SECONDS = 5.0
ADDRESSES = 10_000  # that a limit of the rate is kept for


class TooLarge(Exception):  # noqa: N818  the name of a state
    """A body is longer than allowed."""


def session_of(token: str) -> str:
    """What the cookie of a browser holds: it proves the token and does not tell it."""
    return hmac.new(token.encode(), b"fastad session", hashlib.sha256).hexdigest()


def is_token(given: str, token: str) -> bool:
    """Whether a token is right, in a time that does not depend on how much of it is."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


class Rate:
    """A bucket of requests for each address, which fills with time."""

    def __init__(self, rate: float) -> None:
        self._rate, self._most = rate, max(1.0, rate * BURST_SECONDS)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str, now: float) -> bool:
        """Take one request out of the bucket, if there is one."""
        left, before = self._left.pop(address, (self._most, now))
        left = min(self._most, left + (now - before) * self._rate)
        is_allowed = left >= 1.0
        self._left[address] = (left - is_allowed, now)
        if len(self._left) > ADDRESSES:
            self._left.popitem(last=False)
        return is_allowed


class Safety:
    """The ASGI application around the others."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings, self._rate = app, settings, Rate(settings.rate)
        self._session = None if settings.token is None else session_of(settings.token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], Headers(scope=scope)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found.setdefault(name, value)
                found.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope, path, headers)
        if refusal is not None:
            await _answer(send_safely, *refusal)
            return
        seen = 0

        async def receive_some() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._settings.max_bytes:
                raise TooLarge
            return message

        await self._app(scope, receive_some, send_safely)

    def _refusal(
        self, scope: Scope, path: str, headers: Headers
    ) -> tuple[int, str, dict[str, str]] | None:
        """Status, reason and headers for a request that goes no further."""
        host = urlsplit(f"//{headers.get('host', '')}")
        address = (scope.get("client") or ("", 0))[0]
        if not self._rate.allows(address, time.monotonic()):
            return 429, "too many requests", {"Retry-After": "1"}
        if self._settings.is_loopback and self._settings.token is None:
            try:
                name = host.hostname
            except ValueError:
                name = None
            # Another name for this machine is how a page of elsewhere would reach it.
            if name not in LOOPBACK:
                return 400, "this server answers to localhost alone", {}
        origin = headers.get("origin")
        is_change = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if is_change and origin is not None and urlsplit(origin).netloc != host.netloc:
            return 403, "a page of another origin may change nothing", {}
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._settings.max_bytes:
            limit = self._settings.max_bytes
            return 413, f"the body may have {limit} bytes at most", {"Connection": "close"}
        if self._settings.token is not None and path not in OPEN and not self._knows(headers):
            if "text/html" in headers.get("accept", "") and scope["method"] == "GET":
                return 303, "log in", {"Location": "/login"}
            return 401, "a token is needed", {"WWW-Authenticate": "Bearer"}
        return None

    def _knows(self, headers: Headers) -> bool:
        assert self._settings.token is not None
        assert self._session is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return is_token(given.strip(), self._settings.token)
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and is_token(cookie.value, self._session)


async def _answer(send: Send, status: int, reason: str, headers: dict[str, str]) -> None:
    body = json.dumps({"detail": reason}).encode()
    given = {"Content-Type": "application/json", "Content-Length": str(len(body))} | headers
    raw = [(name.lower().encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
