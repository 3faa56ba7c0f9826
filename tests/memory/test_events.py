"""Streams of events: opened, read by one, and ended with their memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.events import TurnStored

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_async_mem import Memory


async def test_a_stream_that_is_not_entered_says_so(memory: Callable[..., Memory]) -> None:
    """It would wait for ever: events are held only while its context lasts."""
    async with asyncio.timeout(5), memory() as mem:
        with pytest.raises(ConfigError, match="async with"):
            async for _ in mem.events():
                pass


async def test_a_stream_has_one_reader(memory: Callable[..., Memory]) -> None:
    """A second one is refused while the first waits, which gets its event; another may come after it."""
    async with asyncio.timeout(5), memory() as mem, mem.events() as events:
        first = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        with pytest.raises(ConfigError, match=r"mem.events\(\)"):
            await anext(events)
        await mem.add(["one", "two"], user_id="a", infer=False)
        assert isinstance(await first, TurnStored)
        assert isinstance(await anext(events), TurnStored)


async def test_a_reader_that_was_cancelled_leaves_the_stream_free(memory: Callable[..., Memory]) -> None:
    """As with a timeout around each event."""
    async with asyncio.timeout(5), memory() as mem, mem.events() as events:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.01)
        await mem.add("one", user_id="a", infer=False)
        assert isinstance(await anext(events), TurnStored)


async def test_a_stream_that_is_entered_after_the_end_ends(memory: Callable[..., Memory]) -> None:
    """Nothing will happen any more in a memory that is closed."""
    async with memory() as mem:
        late = mem.events()
    async with asyncio.timeout(5), late as events:
        assert [event async for event in events] == []
