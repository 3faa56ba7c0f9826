"""Many callers at once, and callers who give up at any moment."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from ollama_async_mem import OllamaClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from fakes import ScriptedOllama

    from ollama_async_mem import Memory

MANY = 1_000
STEPS = 60
STEP_S = 0.0004  # a call takes some 5 to 20 ms
MOST_GROWTH_MB = 150
BUSY_S = 5.0  # how long a store waits for a file that another process holds


def peak_mb() -> float:
    """The largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("scopes", [1, MANY])
async def test_a_thousand_adds_at_once(memory: Callable[..., Memory], scopes: int) -> None:
    """In one scope or in as many, each is stored once, and the process does not swell."""
    before = peak_mb()
    async with memory() as mem:
        adds = await asyncio.gather(
            *(mem.add(f"I own boat number {n}", user_id=f"u{n % scopes}", infer=False) for n in range(MANY))
        )
        assert len({added.turns[0].id for added in adds}) == MANY
        assert (await mem.count()).turns == MANY
        assert (await mem.statistics()).store.scopes == scopes
        [hit] = await mem.search("boat number 77", user_id=f"u{77 % scopes}", limit=1)
        assert hit.text == "I own boat number 77"
    assert peak_mb() - before < MOST_GROWTH_MB


async def _add(mem: Memory) -> None:
    await mem.add("I own a boat", user_id="alice", infer=False)


async def _search(mem: Memory) -> None:
    await mem.search("boat", user_id="alice")


async def _context(mem: Memory) -> None:
    await mem.context("boat", user_id="alice")


async def _flush(mem: Memory) -> None:
    await mem.flush()


async def _chat(mem: Memory) -> None:
    async with mem.chat("Which boat?", user_id="alice", infer=False) as stream:
        async for _ in stream.text():
            pass


async def _update(mem: Memory) -> None:
    page = await mem.list(user_id="alice", limit=1)
    await mem.update(page.items[0].id, "I own two boats")


@pytest.mark.parametrize("call", [_add, _search, _context, _flush, _chat, _update])
async def test_whoever_gives_up_leaves_nothing_half_done(
    memory: Callable[..., Memory], server: ScriptedOllama, call: Callable[[Memory], Awaitable[None]]
) -> None:
    """Cancelled sooner or later: the memory goes on, holds whole exchanges only, and no connection is lost."""
    server.settings.answer = lambda _: "A blue one."
    async with OllamaClient(server.url, max_connections=4) as client, memory(client=client) as mem:
        await mem.add("I own a blue boat", user_id="alice", infer=False)
        ended = set()
        for steps in range(STEPS):
            task = asyncio.ensure_future(call(mem))
            await asyncio.sleep(steps * STEP_S)
            task.cancel()
            [outcome] = await asyncio.gather(task, return_exceptions=True)
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
            ended.add(outcome is None)
        assert False in ended
        async with asyncio.timeout(20):
            await call(mem)
            assert len(await mem.search("blue boat", user_id="alice")) > 0
        assert await mem.store.check() == []
        texts = [memory.text for memory in await _all(mem)]
        assert texts.count("Which boat?") == texts.count("A blue one.")


async def test_whoever_gives_up_does_not_wait_for_the_store(memory: Callable[..., Memory], tmp_path: Path) -> None:
    """What was being written while another process held the file is written once, before the memory is closed."""
    async with memory() as mem:
        await mem.add("I own a boat", user_id="alice", infer=False)
        with closing(sqlite3.connect(tmp_path / "memory.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await mem.add("I own a car", user_id="alice", infer=False)
            assert time.monotonic() - begun < BUSY_S / 2
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await mem.add("I own a bike", user_id="alice", key="bike", infer=False)
            again = asyncio.gather(
                mem.add("I own a car", user_id="alice", infer=False),
                mem.add("I own a bike", user_id="alice", key="bike", infer=False),
            )
            other.execute("ROLLBACK")
            assert [added.is_new for added in await again] == [False, False]
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await mem.add("I own a kite", user_id="alice", infer=False)
    async with memory() as mem:
        texts = [memory.text for memory in await _all(mem)]
        assert sorted(texts) == ["I own a bike", "I own a boat", "I own a car", "I own a kite"]


async def _all(mem: Memory) -> tuple[Any, ...]:
    return (await mem.list(user_id="alice", limit=1_000)).items
