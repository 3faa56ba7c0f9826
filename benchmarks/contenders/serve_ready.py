"""From the command to the first request that is answered with all parts ready."""

import asyncio
import time

from benchmarks.footprint import report
from benchmarks.phases import expect
from benchmarks.serve_case import Client, served


async def main() -> None:
    """Once."""
    with served() as server:
        expect(await (await Client.connect(server.rest)).get("/readyz"), 200)
        ready_ms = (time.perf_counter() - server.started_s) * 1e3
        report(ready_ms=ready_ms, rss_mb=server.rss_mb())


asyncio.run(main())
