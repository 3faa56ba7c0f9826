"""A memory on a scripted Ollama, and REST for it on a real socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollama_async_mem import Memory
from ollama_async_mem.server.rest import rest_app
from server.running import client_of, held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx
    from fakes import ScriptedOllama


@pytest.fixture
async def memory(server: ScriptedOllama, tmp_path: Path) -> AsyncIterator[Memory]:
    """An open memory that extracts nothing: facts come where a test wants them."""
    async with held(Memory(tmp_path / "memory.db", host=server.url, extract_here=False)) as opened:
        yield opened


@pytest.fixture
async def rest(memory: Memory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the REST routes, for whom everything is allowed."""
    async with held(client_of(rest_app(memory, allow_config=True))) as client:
        yield client
