"""What a memory has to do in its benchmark, and what is measured of it; each contender gives the calls that differ."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from io import StringIO
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from .footprint import report
from .phases import CASE, URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["EMBEDDER", "LLM", "Memories", "compare"]

_SPLIT = "split-" if CASE.get("is_split") else ""
LLM = f"llm-{_SPLIT}{CASE['llm_ms']}"
EMBEDDER = f"embed-{_SPLIT}{CASE['embed_ms']}"
_TICK_S = 0.001
_MOST_ASKED = 100_000


@dataclass(frozen=True, slots=True)
class Memories:
    """A memory that is open. `add` returns when a message is stored, `settle` when its facts are too."""

    add: Callable[[str, str], Awaitable[object]]
    settle: Callable[[], Awaitable[object]]
    search: Callable[[str, str], Awaitable[int]]
    fill: Callable[[str, list[str]], Awaitable[object]]
    """Stores messages of a user without asking a model for facts."""


def message(number: int) -> str:
    """A message with something to remember."""
    return f"I keep {number + 2} bees in hive{number} behind the house."


async def compare(opened: Callable[[], AbstractAsyncContextManager[Memories]]) -> None:
    """Do what the case says."""
    async with opened() as memories:
        await _WORK[CASE["op"]](memories)


async def _adds(memories: Memories) -> None:
    """64 conversations say something at once; it ends when all facts are stored."""
    await memories.add("warm-up", message(10_000))
    await memories.settle()
    async with _stalls() as stalls:
        begin = time.perf_counter()
        await asyncio.gather(*(memories.add(f"user-{n}", message(n)) for n in range(CASE["together"])))
        returned_s = time.perf_counter() - begin
        await memories.settle()
        took_s = time.perf_counter() - begin
    for n in range(CASE["together"]):
        if not await memories.search(f"user-{n}", "bees"):
            raise SystemExit(f"the facts of user {n} are missing")
    report(seconds=took_s, returned_s=returned_s, stall_ms=max(stalls))


async def _returns(memories: Memories) -> None:
    """One add after the other."""
    times: list[float] = []
    await memories.add("user", message(10_000))
    async with _stalls() as stalls:
        for n in range(CASE["adds"]):
            begin = time.perf_counter()
            await memories.add("user", message(n))
            times.append((time.perf_counter() - begin) * 1e3)
    await memories.settle()
    report(p50_ms=median(times), p95_ms=quantiles(times, n=20)[18], stall_ms=max(stalls))


async def _search(memories: Memories) -> None:
    """One search after the other, in a memory of some size."""
    await memories.fill("user", _sentences(CASE["rows"]))
    times: list[float] = []
    first, *asked = _questions(1 + CASE["searches"])
    await memories.search("user", first)
    async with _stalls() as stalls:
        for question in asked:
            begin = time.perf_counter()
            await memories.search("user", question)
            times.append((time.perf_counter() - begin) * 1e3)
    report(p50_ms=median(times), p95_ms=quantiles(times, n=20)[18], stall_ms=max(stalls))


async def _burst(memories: Memories) -> None:
    """64 searches at once."""
    await memories.fill("user", _sentences(CASE["rows"]))
    first, *asked = _questions(1 + CASE["together"])
    await memories.search("user", first)
    async with _stalls() as stalls:
        begin = time.perf_counter()
        await asyncio.gather(*(memories.search("user", question) for question in asked))
        took_s = time.perf_counter() - begin
    report(seconds=took_s, stall_ms=max(stalls))


async def _rate(memories: Memories) -> None:
    """Searches of many users, 64 at a time, for some seconds."""
    users = CASE["users"]
    for n in range(users):
        await memories.fill(f"user-{n}", _sentences(CASE["rows"] // users))
    # As one text: the garbage collector would look at each of a list of texts, and stop the loop for that
    asked = StringIO("\n".join(_questions(_MOST_ASKED)))
    done, end = 0, time.perf_counter() + CASE["seconds"]

    async def ask(n: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            n += 1
            await memories.search(f"user-{n % users}", next(asked).rstrip())
            done += 1

    await ask_once(memories, users)
    begin, cpu = time.perf_counter(), time.process_time()
    end = begin + CASE["seconds"]
    async with _stalls() as stalls:
        await asyncio.gather(*(ask(n) for n in range(CASE["together"])))
    took_s = time.perf_counter() - begin
    report(per_s=done / took_s, cpu_ms_each=(time.process_time() - cpu) / done * 1e3, stall_ms=max(stalls))


async def ask_once(memories: Memories, users: int) -> None:
    """Let each user's memories be read once."""
    for n in range(users):
        await memories.search(f"user-{n}", "warm up")


async def _requests(memories: Memories) -> None:
    """One add, and which requests it makes before it returns and behind."""
    await memories.add("user", message(10_000))
    await memories.settle()
    before = await _counts()
    await memories.add("user", message(1))
    returned = await _counts()
    await memories.settle()
    settled = await _counts()
    report(
        embeds_before=returned["embed"] - before["embed"],
        llm_before=returned["llm"] - before["llm"],
        embeds_behind=settled["embed"] - returned["embed"],
        llm_behind=settled["llm"] - returned["llm"],
    )


def _sentences(count: int) -> list[str]:
    """Varied messages."""
    from .texts import sentences  # noqa: PLC0415 - as above

    return sentences(count, _rng())


def _questions(count: int) -> list[str]:
    """Varied queries."""
    from .texts import questions  # noqa: PLC0415 - as above

    return questions(count, _rng())


@cache
def _rng() -> Any:
    import numpy as np  # noqa: PLC0415 - as above

    return np.random.default_rng(CASE["seed"])


async def _counts() -> dict[str, int]:
    from urllib.request import urlopen  # noqa: PLC0415 - memory is measured where it is not needed

    def get() -> dict[str, int]:
        with urlopen(f"{URL}/counts") as answer:  # noqa: S310 - our own server
            return {"llm": 0, "embed": 0, **json.load(answer)}

    return await asyncio.to_thread(get)


@asynccontextmanager
async def _stalls() -> AsyncIterator[list[float]]:
    """How long the loop did not come round, in ms, while the body ran."""
    late = [0.0]

    async def tick() -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            late.append((time.perf_counter() - begin - _TICK_S) * 1e3)

    task = asyncio.create_task(tick())
    try:
        yield late
    finally:
        task.cancel()


_WORK = {
    "adds": _adds,
    "returns": _returns,
    "search": _search,
    "burst": _burst,
    "rate": _rate,
    "requests": _requests,
}
