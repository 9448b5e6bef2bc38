"""What stands before the application: who may ask, how, and how much a request may hold."""

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llasa_jax.serve.errors import ApiError

MOST_BYTES = 8 << 20  # of a body: 15 s of stereo at 48 kHz as base64 have 3.9 MB
BODY_SECONDS = 30.0  # in which it must have come
OPEN_PATHS = ("/", "/health")  # without a key: the page asks for one
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """Refuses foreign hosts and origins, wrong keys, and bodies that are too large or too slow.

    A page of another site that is open in a browser on this machine could otherwise speak to a
    server on loopback: by a request of its own (its `Origin` gives it away), or by letting its
    name point to 127.0.0.1 (DNS rebinding; the `Host` gives it away).

    Args:
        names: host names under which the server may be asked, beside localhost and addresses.
        keys: of which one must come as a bearer token; none: everybody may ask.
        count: is told the route and status of each answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Iterable[str],
        keys: Iterable[str],
        count: Callable[[str, int], None],
    ):
        self.app, self._count = app, count
        self.names = {"localhost", *(name.lower() for name in names)}
        self.keys = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
                route = getattr(scope.get("route"), "path", "none")
                self._count(route, message["status"])
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
            body = await _read(Headers(scope=scope), receive)
        except ApiError as error:
            await error.response()(scope, receive, answer)
        else:
            if body is not None:
                await self.app(scope, _replayed(body, receive), answer)

    def _check(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._known(host):
            raise ApiError(403, "this host name is not served here; see --name", code="host")
        origin = headers.get("origin")
        if origin is not None:
            parts = urlsplit(origin) if origin.isascii() else None
            if not parts or parts.scheme not in ("http", "https") or parts.netloc != host:
                raise ApiError(403, "pages of other sites may not ask this server", code="origin")
        if self.keys and path not in OPEN_PATHS:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            given = _digest(key.strip())
            matches = [hmac.compare_digest(given, one) for one in self.keys]
            if scheme.lower() != "bearer" or not any(matches):
                raise ApiError(
                    401,
                    "a valid API key is needed: Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
            return True  # whoever knows the address needs no name that points to it
        except ValueError:
            return name in self.names


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


async def _read(headers: Headers, receive: Receive) -> bytes | None:
    """The body; None if the client went away."""
    declared = headers.get("content-length", "0")
    too_large = ApiError(413, f"the body has over {MOST_BYTES} bytes", code="too_large")
    if not declared.isdecimal() or int(declared[:20]) > MOST_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > MOST_BYTES:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(408, "the body took too long to come", code="timeout") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body once; then what else comes: that the client went away."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
