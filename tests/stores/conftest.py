"""Which stores the contract is checked on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ollama_async_mem.ports import MemoryStore


@pytest.fixture(params=["file", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], MemoryStore]:
    """A factory of stores that are empty; the test opens them."""
    urls = {"file": f"sqlite:///{tmp_path / 'memory.db'}", "memory": "sqlite://"}
    return lambda: open_store(urls[request.param])
