"""Opening a store, in a process that has imported everything and opened none."""

import asyncio

import anyio.lowlevel

from benchmarks.footprint import report
from benchmarks.phases import CASE
from benchmarks.store_case import open_data, turn
from benchmarks.store_phases import centiles, timed


async def main() -> None:
    """The first opening of the process, how soon a row is there after it, and some more openings."""
    await anyio.lowlevel.checkpoint()  # imports its part for asyncio
    first = open_data()
    open_ms, _ = await timed(first.__aenter__())
    get_ms, _ = await timed(first.get(turn(0, "").id))
    await first.__aexit__()
    times: list[float] = []
    for _ in range(CASE["openings"]):
        store = open_data()
        times.append((await timed(store.__aenter__()))[0])
        await store.__aexit__()
    report(open_ms=open_ms, first_get_ms=get_ms, **centiles(times, "open_"))


asyncio.run(main())
