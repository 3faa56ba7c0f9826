"""What all tests share: no blocking call on the event loop, and a scripted Ollama on a real socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from fakes import ScriptedOllama

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Make a blocking call on the event loop fail the test."""
    with blockbuster_ctx("ollama_async_mem") as blocking:
        yield blocking


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the developer's own settings and data out of the tests."""
    for name in ("OLLAMA_HOST", "OLLAMA_API_KEY", "OLLAMA_ASYNC_MEM_LLM", "OLLAMA_ASYNC_MEM_EMBEDDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_STORE", str(tmp_path_factory.mktemp("data") / "memory.db"))


@pytest.fixture
async def server() -> AsyncIterator[ScriptedOllama]:
    """A scripted Ollama."""
    async with ScriptedOllama() as scripted:
        yield scripted
