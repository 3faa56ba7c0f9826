"""One request on its way in: what its headers say, its body counted and timed, and the headers of every answer.

It owns how a refusal is told. It knows neither keys nor limits that are shared, nor the app that answers.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import anyio
import anyio.lowlevel
import msgspec

from ollama_async_mem.server.audit import Audit, write_line
from ollama_async_mem.server.errors import Forbidden, HeadTooLarge, TooLarge, TooSlow, Unauthorized
from ollama_async_mem.server.keys import PREFIX
from ollama_async_mem.server.origins import (
    SAFE_METHODS,
    has_body,
    require_host,
    require_json,
    require_origin,
    require_same_site,
)
from ollama_async_mem.server.problems import problem
from ollama_async_mem.server.shortcut import SHORTCUT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, MutableMapping
    from typing import TypeAlias

    from ollama_async_mem.server.access import Principal
    from ollama_async_mem.server.errors import Refused
    from ollama_async_mem.server.settings import ServerSettings

    Message: TypeAlias = MutableMapping[str, Any]
    AsgiScope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    AsgiApp: TypeAlias = Callable[[AsgiScope, Receive, Send], Awaitable[None]]
    Headers: TypeAlias = dict[bytes, bytes]

__all__ = ["AsgiApp", "AsgiScope", "Message", "Receive", "Request", "Rules", "Send", "rules_of"]

_DRAIN_S = 1.0
_CHALLENGE = (b"www-authenticate", b'Bearer realm="ollama-async-mem"')
_CHALLENGE_PAGE = (b"www-authenticate", b'Basic realm="ollama-async-mem: any name, the key as password"')
_FORWARDED = (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"x-forwarded-host", b"x-forwarded-proto", b"via")
_CLOSE = (b"connection", b"close")
_HARDENED = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for one listener.

    With `for_programs` it is an endpoint for clients of Ollama: bodies of any type (`curl -d` calls its JSON a form), a
    key also as the first part of the path, no headers for pages, and the errors that such clients read.
    """

    hosts: frozenset[str]
    origins: frozenset[str]
    base_path: str
    body_bytes: int
    body_s: float
    head_bytes: int
    for_programs: bool = False


def rules_of(settings: ServerSettings, *, for_programs: bool = False) -> Rules:
    """Return the rules of the main listener, or of the one for clients of Ollama."""
    return Rules(
        hosts=frozenset({settings.host.lower(), *settings.allow_host}),
        origins=frozenset(settings.allow_origin),
        base_path="" if for_programs else settings.base_path,
        body_bytes=settings.proxy_body_bytes if for_programs else settings.body_bytes,
        body_s=settings.body_s,
        head_bytes=settings.head_bytes,
        for_programs=for_programs,
    )


class Request:
    """One request on its way through the guard."""

    def __init__(self, scope: AsgiScope, receive: Receive, send: Send, rules: Rules) -> None:
        self.scope = scope
        self.headers: Headers = dict(scope["headers"])
        self.status = 0
        self._receive = receive
        self._send = send
        self._rules = rules
        self._key_id = "-"
        self._shared_with = ""  # the foreign page that is allowed to ask
        self._audit = Audit(changes=scope["method"] not in SAFE_METHODS)
        self._shown = {
            b"": _take_prefixes(scope, rules),
            b"x-api-key": self.headers.get(b"x-api-key", b"").decode("latin-1"),
            b"authorization": _authorization(self.headers),
        }
        self._path = scope["path"]
        self._refusal: Refused | None = None
        self._is_good: Callable[[], Awaitable[bool]] | None = None
        self._is_good_now: Callable[[], bool] | None = None  # until an answer has begun

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks if a page may ask."""
        return self.scope["method"] == "OPTIONS" and b"access-control-request-method" in self.headers

    @property
    def address_group(self) -> str:
        """The client's address; of IPv6 the network, as one client has 2^64 of them."""
        client = self.scope.get("client")
        try:
            address = ipaddress.ip_address(client[0] if client else "")
        except ValueError:
            return ""
        return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))  # noqa: PLR2004 - the version

    def is_to(self, paths: Collection[str]) -> bool:
        """Tell whether it reads one of these paths of the main listener."""
        return self._path in paths and self.scope["method"] in SAFE_METHODS and not self._rules.for_programs

    def check_origin(self) -> None:
        """Refuse what is not meant for this server, and what a foreign page sent."""
        sizes = [len(name) + len(value) for name, value in self.scope["headers"]]
        if sum(sizes) > self._rules.head_bytes:
            raise HeadTooLarge(f"the headers are larger than {self._rules.head_bytes:,} bytes")
        hosts = [value for name, value in self.scope["headers"] if name == b"host"]
        host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        server = self.scope.get("server")
        require_host(host, self._rules.hosts, server[0] if server else "")
        origin = self.headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and require_origin(origin, self.scope["scheme"], host, self._rules.origins):
            self._shared_with = origin
        else:
            require_same_site(self.scope["method"], self.headers)

    def shown_key(self) -> str | None:
        """The key that came with it, on the path or in a header: first what looks like one of ours."""
        given = sorted(filter(None, self._shown.values()), key=lambda text: not text.startswith(PREFIX))
        return given[0] if given else None

    def require_direct(self) -> None:
        """Refuse what came through a reverse proxy: who needs no key must be on this machine."""
        if any(name in self.headers for name in _FORWARDED):
            raise Forbidden("behind a reverse proxy a key is needed: make one with 'ollama-async-mem keys create'")

    def let_in(self, principal: Principal, key_id: str = "-") -> None:
        """Say who asks, and take our keys out: nothing behind shall log them or hand them on."""
        self._key_id = key_id
        self.scope["state"] = {**self.scope.get("state", {}), "principal": principal, "audit": self._audit}
        ours = {name for name, text in self._shown.items() if text.startswith(PREFIX)}
        if ours:
            self.scope["headers"] = [pair for pair in self.scope["headers"] if pair[0] not in ours]

    def check_body(self) -> None:
        """Refuse a body that is too large by its own word, or of a type that pages can send."""
        if int(self.headers.get(b"content-length", b"0")) > self._rules.body_bytes:
            raise self._too_large()
        if not (self._rules.for_programs or self.scope["method"] in SAFE_METHODS):
            require_json(self.headers)

    async def run(
        self,
        app: AsgiApp,
        is_good: Callable[[], Awaitable[bool]] | None = None,
        is_good_now: Callable[[], bool] | None = None,
    ) -> None:
        """Let the app answer, as long as `is_good` says so, and `is_good_now` of what takes the short way.

        What stops the body on its way in is told by the guard, whatever the app makes of it.
        """
        self._is_good, self._is_good_now = is_good, is_good_now
        try:
            await app(self.scope, self._body() if has_body(self.headers) else self._receive, self._answer)
        except Exception:  # whatever an app makes of it
            if self._refusal is None:
                raise
            raise self._refusal from None
        if self._refusal is not None and not self.status:
            raise self._refusal

    async def refuse(self, exc: Refused) -> None:
        """Answer with the problem; read what is still to come for a moment, so that the client gets to see it."""
        told = problem(exc)
        content = msgspec.to_builtins(told) | ({"error": told.detail} if self._rules.for_programs else {})
        body = msgspec.json.encode(content)
        headers = [*told.headers(), (b"content-length", str(len(body)).encode())]
        if isinstance(exc, Unauthorized):
            headers.append(_CHALLENGE_PAGE if b"text/html" in self.headers.get(b"accept", b"") else _CHALLENGE)
        ends = has_body(self.headers)
        self._refusal = self._is_good = self._is_good_now = None
        await self._answer(
            {"type": "http.response.start", "status": told.status, "headers": [*headers, _CLOSE] if ends else headers}
        )
        await self._send({"type": "http.response.body", "body": body, "more_body": ends})
        if ends:
            await self._drain()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer_preflight(self) -> None:
        """Allow an allowed page what it asks for."""
        asked = self.headers.get(b"access-control-request-headers", b"")
        headers = [
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", asked),
            (b"access-control-allow-private-network", b"true"),
            (b"access-control-max-age", b"600"),
        ]
        await self._answer({"type": "http.response.start", "status": 204, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def audit_line(self) -> None:
        """Log it, if it changes something or was to."""
        if self._audit.changes:
            write_line(self.scope, self._audit, key=self._key_id, path=self._path, status=self.status)

    async def _answer(self, message: Message) -> None:
        """Send a message of the answer on, the first one with the headers of all answers."""
        if self._is_good and not await self._is_good():
            self._refusal = Unauthorized("the key was revoked meanwhile: make one with 'ollama-async-mem keys create'")
            raise self._refusal
        if self._refusal and not self.status:
            await anyio.lowlevel.checkpoint()  # the refusal is told in its place
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._headers_of([*message.get("headers", ())])}
        await self._send(message)
        if self._is_good_now and (shortcut := (self.scope.get("extensions") or {}).get(SHORTCUT)):
            shortcut.holds, self._is_good_now = self._is_good_now, None

    def _headers_of(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        names = {name.lower() for name, _ in headers}
        if not self._rules.for_programs:
            headers += [pair for pair in _HARDENED if pair[0] not in names]
        if self._shared_with:
            headers = [pair for pair in headers if pair[0] != b"cross-origin-resource-policy"]
            headers += [
                (b"access-control-allow-origin", self._shared_with.encode("latin-1")),
                (b"access-control-expose-headers", b"*"),
                (b"cross-origin-resource-policy", b"cross-origin"),
                (b"vary", b"origin"),
            ]
        return headers

    def _body(self) -> Receive:
        """The body on its way in, counted and timed; only the time that is spent waiting for the client counts."""
        left_s, size, is_whole = self._rules.body_s, 0, False

        async def receive() -> Message:
            nonlocal left_s, size, is_whole
            if is_whole:
                return await self._receive()
            began = time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    message = await self._receive()
            except TimeoutError:
                self._refusal = TooSlow(f"the body did not arrive within {self._rules.body_s:g} s")
                raise self._refusal from None
            left_s -= time.monotonic() - began
            size += len(message.get("body", b""))
            if size > self._rules.body_bytes:
                self._refusal = self._too_large()
                raise self._refusal
            is_whole = not message.get("more_body", False)
            return message

        return receive

    async def _drain(self) -> None:
        with anyio.move_on_after(_DRAIN_S):
            while (await self._receive()).get("more_body"):
                pass

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._rules.body_bytes:,} bytes")


def _authorization(headers: Headers) -> str:
    """The key in the Authorization header: that of Bearer, or the password of Basic, which browsers ask people for."""
    kind, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() != "basic":
        return value.strip() if kind.lower() == "bearer" else ""
    try:
        return base64.b64decode(value).decode("latin-1").partition(":")[2]
    except ValueError:  # also that of letters which are not ASCII
        return ""


def _take_prefixes(scope: AsgiScope, rules: Rules) -> str:
    """Take from the path what a reverse proxy may have left there, and the key; returns the key, or ""."""
    if rules.base_path and f"{scope['path']}/".startswith(f"{rules.base_path}/"):
        _take_segments(scope, rules.base_path.count("/"))
    first = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
    if not (rules.for_programs and first.startswith(PREFIX)):
        return ""
    _take_segments(scope, 1)
    return str(first)


def _take_segments(scope: AsgiScope, number: int) -> None:
    """Take them from both forms of the path: as it was sent, where any letter may stand as %xx, and as it is read."""
    raw = scope["raw_path"].split(b"/", number + 1)
    scope["raw_path"] = b"/" + b"".join(raw[number + 1 :])
    scope["path"] = unquote(scope["raw_path"].decode("ascii"))
