"""Several processes that search one file without a pause, while another one adds turns to it without a pause."""

import asyncio
import multiprocessing
import shutil
import sys
import time
from itertools import count
from multiprocessing.synchronize import Barrier
from typing import NamedTuple

from benchmarks.footprint import peak_rss_mb, report
from benchmarks.phases import CASE
from benchmarks.store_case import DATA, LIMIT, MODEL, PATH, asked, turn
from benchmarks.store_phases import centiles, dense, keyword, timed
from ollama_async_mem.errors import StoreError
from ollama_async_mem.ports import MemoryStore
from ollama_async_mem.records import Scope
from ollama_async_mem.stores import open_store

COPY = PATH.with_name("mixed.db")
QUERIES = asked()
WARM_UP = 2  # steps before the time begins

_begin: Barrier  # of a process of the pool


class Outcome(NamedTuple):
    """What a process did: how long each step took, what failed, and its memory."""

    times_ms: list[float]
    errors: int
    rss_mb: float


def prepare(begin: Barrier) -> None:
    """Take what all processes wait at."""
    global _begin  # noqa: PLW0603 - the way into a process of a pool
    _begin = begin


def work(writes: bool) -> Outcome:  # noqa: FBT001 - `map` gives it by position
    """Read or write in a process of its own."""
    return asyncio.run(steps(writes=writes))


async def steps(*, writes: bool) -> Outcome:
    """Do one step after the other, from when all processes are ready until the time is over."""
    step, times, errors, end = write if writes else read, [], 0, float("inf")
    async with open_store(COPY, create=False) as store:
        for number in count():
            if number == WARM_UP:
                _begin.wait()
                end = time.monotonic() + CASE["seconds"]
            if time.monotonic() > end:
                break
            try:
                times.append((await timed(step(store, number)))[0])
            except StoreError as exc:
                print(exc, file=sys.stderr)
                errors += 1
    return Outcome(times, errors, peak_rss_mb())


async def read(store: MemoryStore, number: int) -> None:
    """Search by words and by a vector in turn."""
    search, place = (keyword, dense)[number % 2], number // 2 % len(QUERIES.texts)
    found = await search(store, QUERIES, place)
    if search is dense and len(found) != LIMIT:
        raise StoreError(f"{len(found)} rows were found")


async def write(store: MemoryStore, number: int) -> None:
    """Add one turn."""
    added = turn(DATA.rows + number, f"A turn that was added while others searched, the {number}th.")
    await store.add_turns([added], [QUERIES.vectors[number % len(QUERIES.texts)]], model=MODEL)


async def rows() -> int:
    """How many rows the file has."""
    async with open_store(COPY, create=False) as store:
        return (await store.counts(Scope())).turns


def together() -> None:
    """Run all at the same time, and count at the end what was added."""
    shutil.copyfile(PATH, COPY)
    roles = [True, *[False] * CASE["readers"]]
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(roles), prepare, (context.Barrier(len(roles)),)) as pool:
        writer, *readers = pool.map(work, roles, chunksize=1)
    lost = DATA.rows + len(writer.times_ms) - asyncio.run(rows())
    reads = [ms for reader in readers for ms in reader.times_ms[WARM_UP:]]
    report(
        **centiles(reads, "read_"),
        **centiles(writer.times_ms[WARM_UP:], "write_"),
        errors=abs(lost) + writer.errors + sum(reader.errors for reader in readers),
        reads_per_s=len(reads) / CASE["seconds"],
        writes_per_s=len(writer.times_ms) / CASE["seconds"],
        reader_rss_mb=max(reader.rss_mb for reader in readers),
    )
    COPY.unlink()


if __name__ == "__main__":
    together()
