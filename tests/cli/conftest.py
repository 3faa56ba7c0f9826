"""A scripted Ollama where the command line looks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fakes import ScriptedOllama

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedOllama]:
    """A scripted Ollama where the command line looks for one."""
    with ScriptedOllama() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server
