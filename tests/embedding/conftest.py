"""A scripted Ollama for both event loops, and ways to say what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fakes import ScriptedOllama

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fake() -> Iterator[ScriptedOllama]:
    """A scripted Ollama for any event loop."""
    with ScriptedOllama() as scripted:
        yield scripted
