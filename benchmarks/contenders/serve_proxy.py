"""The proxy with its memory switched off, against a direct connection and beside a bare relay."""

import asyncio
from collections.abc import Sequence
from statistics import median

from benchmarks.footprint import report
from benchmarks.phases import CASE, URL
from benchmarks.serve_case import Client, Served, bare_relay, served

OFF = "X-Memory: off\r\n"
SETTLE_S = 1.0


def chat(model: str) -> dict[str, object]:
    """A request."""
    return {"model": model, "messages": [{"role": "user", "content": "Tell me about the sea."}]}


async def added_ms(server: Served) -> float:
    """How much later the first chunk comes; both ways take turns."""
    direct, through = await Client.connect(URL), await Client.connect(server.proxy)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(CASE["requests"]):
        times[0].append(await direct.first_ms("/api/chat", chat("single:3")))
        times[1].append(await through.first_ms("/api/chat", chat("single:3"), OFF))
    return median(times[1]) - median(times[0])


async def cpu_us_per_chunk(server: Served, model: str, seconds: float) -> float:
    """Processor's time of the proxy for each chunk while all streams are under way."""
    chunks = 0
    clients = [await Client.connect(server.proxy) for _ in range(CASE["streams"])]

    async def follow(client: Client) -> None:
        nonlocal chunks
        client.send("/api/chat", chat(model), OFF)
        while piece := await client.piece():
            chunks += piece.count(b'"done"')

    tasks = [asyncio.create_task(follow(client)) for client in clients]
    await asyncio.sleep(SETTLE_S)
    cpu_s, before = server.cpu_s(), chunks
    await asyncio.sleep(seconds)
    cpu_s, counted = server.cpu_s() - cpu_s, chunks - before
    for task, client in zip(tasks, clients, strict=True):
        task.cancel()
        client.close()
    return cpu_s / counted * 1e6


async def rounds(servers: Sequence[Served], model: str) -> list[float]:
    """The median for each server; they take turns."""
    found = [
        [await cpu_us_per_chunk(server, model, CASE["seconds"]) for server in servers] for _ in range(CASE["rounds"])
    ]
    return [median(of_one) for of_one in zip(*found, strict=True)]


async def main() -> None:
    """One server for all, beside the floor."""
    with served() as server, bare_relay() as floor:
        added = await added_ms(server)
        paced_us, paced_floor_us = await rounds([server, floor], "paced:1000000")
        unpaced_us, unpaced_floor_us = await rounds([server, floor], "single:1000000")
    report(
        added_ms=added,
        paced_us=paced_us,
        paced_floor_us=paced_floor_us,
        unpaced_us=unpaced_us,
        unpaced_floor_us=unpaced_floor_us,
    )


asyncio.run(main())
