"""The proxy as an ASGI application: which requests get memories, and the order of what is done with them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ollama_async_mem.errors import StreamTruncated
from ollama_async_mem.server.access import principal_of
from ollama_async_mem.server.audit import audit_of
from ollama_async_mem.server.errors import Forbidden
from ollama_async_mem.server.proxy.asked import READERS
from ollama_async_mem.server.proxy.relay import Copy, relay, tell
from ollama_async_mem.server.proxy.remembering import Remembering
from ollama_async_mem.server.proxy.target import ids_of, require_allowed, target_of
from ollama_async_mem.server.proxy.upstream import Upload, Upstream

if TYPE_CHECKING:
    from ollama_async_mem.app import Memory
    from ollama_async_mem.server.proxy.asked import Asked
    from ollama_async_mem.server.proxy.target import Target
    from ollama_async_mem.server.request import AsgiApp, AsgiScope, Receive, Send

__all__ = ["proxy_app"]

DEFAULT_USER = "default"
_MOST_BYTES = 20_000_000  # what is larger, with many images, goes on as it comes and without memories
_PLAIN_ANSWER = frozenset({"accept-encoding"})


def proxy_app(memory: Memory, host: str, *, default_user: str = DEFAULT_USER) -> AsgiApp:
    """Make the app that passes everything on to the Ollama server at `host`, and lets chats recall and be remembered.

    `default_user` is whose memory it is where neither key, header nor path says so.

    Raises:
        ConfigError: `host` is no address.
    """
    return _Proxy(Upstream(host), Remembering(memory), default_user)


class _Proxy:
    def __init__(self, upstream: Upstream, remembering: Remembering, default_user: str) -> None:
        self._upstream = upstream
        self._remembering = remembering
        self._default_user = default_user

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except Forbidden as exc:
            await tell(send, exc.status, str(exc))
        except StreamTruncated:
            return  # the client left within its request

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._remembering.settled()
        await self._upstream.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        target, upload = target_of(scope), Upload(receive)
        require_allowed(scope, target)
        asked, body = await _read(scope, target, upload)
        if asked is not None and body is not None:
            await self._chat(asked, body, target=target, scope=scope, receive=receive, send=send)
        else:
            audit_of(scope).changes &= not target.is_for_all
            content = upload if body is None else body
            await relay(self._upstream, scope, receive, send, path=target.raw, content=content)

    async def _chat(
        self, asked: Asked, body: bytes, *, target: Target, scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        ids, asked_at = ids_of(scope, target, self._default_user), datetime.now(UTC)
        known = await self._remembering.recall(asked, ids)
        copy = Copy()
        try:
            with self._remembering.memory.answering() as copy.go_on:
                await relay(
                    self._upstream,
                    scope,
                    receive,
                    send,
                    path=target.raw,
                    content=asked.write(known.text) if known.text else body,
                    without=_PLAIN_ANSWER,
                    headers=known.headers,
                    copy=copy,
                )
        finally:
            if principal_of(scope).may_write:
                self._remembering.remember(asked, copy, ids, asked_at)


async def _read(scope: AsgiScope, target: Target, upload: Upload) -> tuple[Asked | None, bytes | None]:
    """What is asked, None where no memory is wanted; and the body, None where more of it is to come."""
    reader = READERS.get(target.path) if scope["method"] == "POST" else None
    if reader is None or dict(scope["headers"]).get(b"x-memory", b"").strip().lower() == b"off":
        return None, await upload.hold(0)
    body = await upload.hold(_MOST_BYTES)
    return None if body is None else reader(body), body
