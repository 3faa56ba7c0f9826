"""Clients of the official SDK, for the tests of the tools."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

from ollama_async_mem.server.lifespan import lifespan
from ollama_async_mem.server.mcp import mcp_app
from server.running import running, seen_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp.types import CallToolResult

    from ollama_async_mem import Memory
    from ollama_async_mem.server.access import Principal

ERAS = ("auto", "legacy")
"""How clients begin: as of 2026 without sessions, and as those before with one."""


@asynccontextmanager
async def tools_of(
    memory: Memory, who: Principal | None = None, *, mode: str = "auto", **limits: Any
) -> AsyncIterator[Client]:
    """A client of the tools on a memory over HTTP, as a principal."""
    async with app_at(memory, who, **limits) as url, Client(url, mode=mode, cache=None) as client:
        yield client


@asynccontextmanager
async def app_at(memory: Memory, who: Principal | None = None, **limits: Any) -> AsyncIterator[str]:
    """The tools on a real socket; gives their address."""
    app = mcp_app(memory, **limits)
    async with lifespan(app), running(seen_by(app, who) if who else app) as url:
        yield f"{url}/mcp"


@asynccontextmanager
async def client_at(url: str, *, mode: str = "auto", **headers: str) -> AsyncIterator[Client]:
    """A client that sends headers; _ in their names stands for -."""
    dashed = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        httpx2.AsyncClient(headers=dashed, timeout=20, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, cache=None) as client,
    ):
        yield client


def text_of(result: CallToolResult) -> str:
    """The text of an answer, which is all of its content."""
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text


async def told(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool that answers; gives the structured content."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    assert text_of(result)
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool that fails; gives what the model is told."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, text_of(result)
    assert result.structured_content is None
    return text_of(result)
