"""Fixtures of the client's tests on both event loops, which have to be synchronous."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme
from fakes import ScriptedOllama

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fake() -> Iterator[ScriptedOllama]:
    """A scripted Ollama for any event loop."""
    with ScriptedOllama() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()
