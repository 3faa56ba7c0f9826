"""The proxy with its memory, against a direct connection: when the first chunk comes."""

import asyncio
from statistics import median, quantiles

from benchmarks.footprint import report
from benchmarks.phases import CASE, URL
from benchmarks.serve_case import USERS, Client, queries, served

NAMED = f"X-Memory-User: {USERS[0]}\r\n"


async def main() -> None:
    """Both ways take turns, and each question is a new one."""
    with served() as server:
        direct, through = await Client.connect(URL), await Client.connect(server.proxy)
        times: tuple[list[float], list[float]] = ([], [])
        for question in queries(CASE["requests"] + 1):
            body = {"model": "single:3", "messages": [{"role": "user", "content": question}]}
            times[0].append(await direct.first_ms("/api/chat", body))
            times[1].append(await through.first_ms("/api/chat", body, NAMED))
        without, with_memory = times[0][1:], times[1][1:]  # the first one reads the store
        p95_ms = quantiles(with_memory, n=20)[18]
        report(added_ms=median(with_memory) - median(without), p95_ms=p95_ms, first_ms=times[1][0])


asyncio.run(main())
