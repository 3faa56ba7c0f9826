"""Many callers that each add one turn after the other to a new file, and go on when it is on the disk."""

import asyncio
import time

from benchmarks.footprint import report
from benchmarks.phases import CASE, expect
from benchmarks.store_case import DATA, FOLDER, MODEL
from benchmarks.store_data import Made, embedder
from benchmarks.store_phases import centiles, timed
from ollama_async_mem.records import Scope
from ollama_async_mem.stores import open_store


async def main() -> None:
    """Each caller takes the next row; at the end all must be there."""
    made = Made(await embedder(), 1)
    rows = [row for turns, vectors in made.batches() for row in zip(turns, vectors, strict=True)]
    path, todo, times = FOLDER / f"inserts-{time.monotonic_ns()}.db", iter(rows), []

    async def caller() -> None:
        for turn, vector in todo:
            times.append((await timed(store.add_turns([turn], [vector], model=MODEL)))[0])

    async with open_store(path) as store:
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as callers:
            for _ in range(CASE["callers"]):
                callers.create_task(caller())
        seconds = time.perf_counter() - begin
    async with open_store(path, create=False) as store:
        expect((await store.counts(Scope())).turns, DATA.rows)
        size_mb = (await store.statistics()).size_bytes / (1 << 20)
    report(inserts_per_s=len(rows) / seconds, **centiles(times, "insert_"), disk_mb=size_mb)
    path.unlink()


asyncio.run(main())
