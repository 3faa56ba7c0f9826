"""Searches over REST, some connections at once."""

import asyncio
import time
from statistics import median, quantiles

from benchmarks.footprint import report
from benchmarks.phases import CASE
from benchmarks.serve_case import USERS, Client, queries, served

MOST = 20_000


async def main() -> None:
    """Each connection asks again as soon as it is answered."""
    asked, times, end_s = iter(queries(MOST)), [0.0][:0], 0.0

    async def search(client: Client) -> None:
        while (begin := time.perf_counter()) < end_s:
            client.send("/api/v1/search", {"query": next(asked), "user_id": USERS[len(times) % len(USERS)]})
            await client.answer()
            times.append((time.perf_counter() - begin) * 1e3)

    with served() as server:
        clients = [await Client.connect(server.rest) for _ in range(CASE["connections"])]
        end_s = time.perf_counter() + CASE["seconds"] / 4
        await asyncio.gather(*map(search, clients))
        times.clear()
        begin, cpu_s = time.perf_counter(), server.cpu_s()
        end_s = begin + CASE["seconds"]
        await asyncio.gather(*map(search, clients))
        took_s, cpu_s = time.perf_counter() - begin, server.cpu_s() - cpu_s
    report(
        per_s=len(times) / took_s,
        p50_ms=median(times),
        p99_ms=quantiles(times, n=100)[98],
        cpu_ms_each=cpu_s / len(times) * 1e3,
    )


asyncio.run(main())
