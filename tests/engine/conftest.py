"""One engine with the real model for all tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from engine import engine_support as support
from ollama_async_mem.engine.catalogue import default_models_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="session")
def engine_url(engine: str) -> str:
    """An engine that has the catalogue's model, pulled into the user's cache once."""
    return engine


@pytest.fixture(scope="session")
def model_file(engine_url: str) -> Path:
    """The pulled GGUF file."""
    return default_models_dir() / support.FILE


@pytest.fixture(scope="session")
def wheel(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel like the real one, made from the pulled file: needs no network."""
    return support.make_wheel(tmp_path_factory.mktemp("wheel"), model_file)


@pytest.fixture
async def http(engine_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client for the engine."""
    async with httpx.AsyncClient(base_url=engine_url, timeout=100, trust_env=False) as client:
        yield client
