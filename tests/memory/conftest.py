"""Memories on one store and a scripted Ollama."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ollama_async_mem import Memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fakes import ScriptedOllama


@pytest.fixture
def memory(server: ScriptedOllama, tmp_path: Path) -> Callable[..., Memory]:
    """Make memories on one store and the scripted server."""

    def make(**options: Any) -> Memory:
        return Memory(tmp_path / "memory.db", host=server.url, **options)

    return make
