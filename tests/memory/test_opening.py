"""Who may open and close a memory: any task, on one loop of asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest
import trio
from fakes import Hold, Raw

from ollama_async_mem.embedding import OllamaEmbedder
from ollama_async_mem.errors import ConfigError, StoreClosed, StoreError
from ollama_async_mem.memory.service import MemoryService
from ollama_async_mem.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fakes import ScriptedOllama

    from ollama_async_mem import Memory


async def test_any_task_closes_a_memory(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """Opened in one task, used in another, closed by two at once and again; what was queued waits in the store."""
    server.enqueue("POST /api/chat", Raw([Hold()]))
    mem = await asyncio.create_task(memory(idle_s=0).__aenter__())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(mem.add("I own a boat", user_id="a"))
    await server.wait_until(lambda: bool(server.requests_to("POST /api/chat")))
    await asyncio.gather(asyncio.create_task(mem.aclose()), asyncio.create_task(mem.aclose()))
    with pytest.raises(StoreClosed):
        await mem.add("too late", user_id="a")
    await mem.aclose()
    await memory().aclose()
    with pytest.raises(ConfigError, match="opened once"):
        await mem.__aenter__()
    async with memory(extract_here=False) as mem:
        assert ((await mem.count()).turns, await mem.store.pending_jobs()) == (1, 1)


class Slow:
    """A resource that takes its time, and tells what happens to it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.reached, self.go_on = anyio.Event(), anyio.Event()

    async def wait(self, name: str) -> None:
        """Wait until it may go on."""
        self.told.append(name)
        self.reached.set()
        await self.go_on.wait()


class SlowToOpen(Slow):
    """A resource that is not open yet."""

    async def __aenter__(self) -> None:
        await self.wait("opening")

    async def __aexit__(self, *_: object) -> None:
        self.told.append("closed")


class SlowToClose(Slow):
    """A resource that is closed in the end."""

    async def __aenter__(self) -> None:
        self.told.append("open")

    async def __aexit__(self, *_: object) -> None:
        await self.wait("closing")
        self.told.append("closed")


def memory_of(*resources: SlowToOpen | SlowToClose, store: str = "sqlite://") -> MemoryService:
    """A memory that needs no server as long as nothing is embedded."""
    return MemoryService(store=open_store(store), embedder=OllamaEmbedder("nomic-embed-text"), resources=resources)


async def test_who_is_cancelled_while_opening_leaves_nothing_open() -> None:
    """What was open by then is closed."""
    first, second = SlowToClose(), SlowToOpen()
    first.go_on.set()
    mem = memory_of(first, second)
    opening = asyncio.ensure_future(mem.__aenter__())
    await second.reached.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (first.told, second.told) == (["open", "closing", "closed"], ["opening"])
    await mem.aclose()


async def test_what_goes_wrong_while_opening_is_raised_as_it_is(tmp_path: Path) -> None:
    """Once, by the opening, and what was open by then is closed."""
    first = SlowToClose()
    first.go_on.set()
    mem = memory_of(first, store=str(tmp_path))
    with pytest.raises(StoreError):
        await mem.__aenter__()
    assert first.told == ["open", "closing", "closed"]
    await mem.aclose()


@pytest.mark.parametrize("scoped", [True, False])
async def test_who_is_cancelled_while_closing_closes_nevertheless(*, scoped: bool) -> None:
    """By a scope or by `Task.cancel`: it is closed as a whole, and the cancellation is raised then."""
    slow, scope = SlowToClose(), anyio.CancelScope()
    mem = memory_of(slow)

    async def use() -> None:
        with scope:
            async with mem:
                pass
            pytest.fail("nobody was cancelled")

    using = asyncio.ensure_future(use())
    await slow.reached.wait()
    for _ in range(3):
        scope.cancel() if scoped else using.cancel()
        await asyncio.sleep(0)
        assert not using.done()
    slow.go_on.set()
    await asyncio.wait([using])
    assert (using.cancelled(), slow.told) == (not scoped, ["open", "closing", "closed"])


def test_the_end_of_the_loop_closes_a_memory() -> None:
    """Where nobody else did; closing it afterwards is no error."""
    slow = SlowToClose()
    slow.go_on.set()
    mem = memory_of(slow)
    asyncio.run(mem.__aenter__())
    assert slow.told == ["open", "closing", "closed"]
    asyncio.run(mem.aclose())


def test_another_loop_cannot_close_a_memory() -> None:
    """It would wait for ever."""
    mem = memory_of()
    with asyncio.Runner() as runner:
        runner.run(mem.__aenter__())
        with pytest.raises(ConfigError, match="event loop that opened it"), asyncio.Runner() as other:
            other.run(mem.aclose())
        runner.run(mem.aclose())


def test_a_memory_on_trio_says_what_runs_there(memory: Callable[..., Memory]) -> None:
    """Its stores and its embedder work with asyncio; the client alone does not mind."""

    async def opened() -> None:
        async with memory():
            pass

    with pytest.raises(ConfigError, match="runs on asyncio"):
        trio.run(opened)
