"""MCP over HTTP: the SDK's streamable transport, with sessions that end and are bounded.

Whether a request is meant for this server, who asks, and how large it may be is the guard's business: the SDK's own
checks of names would know nothing of the hosts that were allowed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from ollama_async_mem.server.access import principal_of
from ollama_async_mem.server.audit import audit_of
from ollama_async_mem.server.mcp.server import mcp_server
from ollama_async_mem.server.problems import plain_problem

if TYPE_CHECKING:
    from ollama_async_mem.app import Memory
    from ollama_async_mem.server.problems import Problem
    from ollama_async_mem.server.request import AsgiApp, AsgiScope, Receive, Send

__all__ = ["mcp_app"]

_PATHS = frozenset({"/mcp", "/mcp/"})
_METHODS = frozenset({"POST", "DELETE"})  # not GET: this server sends nothing that nobody asked for
_IDLE_S = 3_600.0
_MOST_SESSIONS = 1_000


def mcp_app(memory: Memory, *, idle_s: float = _IDLE_S, most_sessions: int = _MOST_SESSIONS) -> AsgiApp:
    """Make the ASGI app that serves the tools on a memory at /mcp; it needs the lifespan of its server.

    Clients of the protocol before 2026 have sessions: one ends after `idle_s` without a request, and beyond
    `most_sessions` there is no new one. A session is its principal's alone. Later clients have none.
    """
    manager = StreamableHTTPSessionManager(
        mcp_server(memory),
        max_request_body_size=sys.maxsize,
        session_idle_timeout=idle_s,
        max_sessions=most_sessions,
    )

    async def app(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(manager, receive, send)
        elif scope["path"] not in _PATHS:
            await _refuse(send, plain_problem(404, "MCP is at /mcp"))
        elif scope["method"] not in _METHODS:
            await _refuse(send, plain_problem(405, "this server sends nothing on its own: use POST"))
        else:
            audit_of(scope).changes = False  # but for what a tool says that it changes
            await manager.handle_request({**scope, "user": _user(scope)}, receive, send)

    return app


async def _live(manager: StreamableHTTPSessionManager, receive: Receive, send: Send) -> None:
    await receive()
    async with manager.run():
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


def _user(scope: AsgiScope) -> AuthenticatedUser:
    """The principal in the SDK's words, which binds sessions to it."""
    who = msgspec.json.encode(principal_of(scope)).decode()
    return AuthenticatedUser(AccessToken(token="", client_id=who, scopes=[]))


async def _refuse(send: Send, told: Problem) -> None:
    headers = [*told.headers(), *([(b"allow", b"POST, DELETE")] if told.status == 405 else [])]  # noqa: PLR2004 - HTTP
    await send({"type": "http.response.start", "status": told.status, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(told)})
