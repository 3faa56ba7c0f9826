"""What all tests share: no blocking call on the event loop, and a scripted Ollama on a real socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
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
    for name in os.environ:
        if name.startswith("OLLAMA_") and name != "OLLAMA_ASYNC_MEM_MODELS":  # where a big download may lie already
            monkeypatch.delenv(name)
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_STORE", str(tmp_path_factory.mktemp("data") / "memory.db"))
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_FIND_HOST", "0")  # tests may run in a container


@pytest.fixture
async def server() -> AsyncIterator[ScriptedOllama]:
    """A scripted Ollama."""
    async with ScriptedOllama() as scripted:
        yield scripted


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """Address of a real engine with its real chat model, for all tests of a session."""
    command = [sys.executable, "-m", "ollama_async_mem.engine", "--exit-with-parent", "--port", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout
        url = json.loads(process.stdout.readline())["url"]
        pulled = httpx.post(f"{url}/api/pull", json={"model": "smollm2:135m", "stream": False}, timeout=600)
        assert pulled.json() == {"status": "success"}
        yield url
        process.terminate()
