"""Who may open and close a memory: one task, on asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import trio

from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_async_mem import Memory


async def test_a_memory_is_closed_by_its_opener(memory: Callable[..., Memory]) -> None:
    """Another task is refused before anything is closed; once it is closed, anybody may close it again."""
    async with memory() as mem:
        with pytest.raises(ConfigError, match="task that opened it"):
            await asyncio.create_task(mem.aclose())
        await mem.add("still here", user_id="a", infer=False)
    await asyncio.create_task(mem.aclose())


def test_a_memory_on_trio_says_what_runs_there(memory: Callable[..., Memory]) -> None:
    """Its stores and its embedder work with asyncio; the client alone does not mind."""

    async def opened() -> None:
        async with memory():
            pass

    with pytest.raises(ConfigError, match="runs on asyncio"):
        trio.run(opened)
