"""What contenders do and what is measured of it: each gives the one call that differs.

Processor time is this process's own, around the work alone: imports and one warm-up come before. The runner has
the whole process's beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
import tracemalloc
from array import array
from collections.abc import Awaitable, Callable, Sequence
from statistics import median, quantiles
from typing import Any, TypeAlias

from .footprint import report
from .tokens import characters

Vectors: TypeAlias = Sequence[Sequence[float]]

CASE: dict[str, Any] = json.loads(sys.argv[1])
URL: str = CASE["url"]
TEXT = "a text of a few words"
CENTILES = 100


def expect(got: object, expected: object) -> None:
    """End the program where a contender has not done the work."""
    if got != expected:
        raise SystemExit(f"the contender read {got} where {expected} was sent")


async def one_stream(read: Callable[[str], Awaitable[int]]) -> None:
    """`read` streams a model's chat and returns how many characters it had."""
    variant, count = CASE["variant"], CASE["chunks"]
    expect(await read(f"{variant}:{CASE['warm_up']}"), characters(CASE["warm_up"]))
    begin = time.process_time()
    total = await read(f"{variant}:{count}")
    cpu_s = time.process_time() - begin
    expect(total, characters(count))
    report(cpu_us_per_chunk=cpu_s / count * 1e6, stream_cpu_ms=cpu_s * 1e3)


async def small_requests(embed: Callable[[int], Awaitable[Sequence[float]]]) -> None:
    """`embed` asks for one vector; its argument tells apart the calls that run at the same time."""

    async def one(number: int) -> None:
        expect(len(await embed(number)), CASE["dimension"])

    async def together() -> None:
        await asyncio.gather(*(one(number) for number in range(CASE["together"])))

    await together()  # opens the connections
    sequential_s = await _mean_cpu_s(lambda: one(0), CASE["sequential"])
    gathered_s = await _mean_cpu_s(together, CASE["rounds"])
    report(sequential_us=sequential_s * 1e6, gather_us=gathered_s / CASE["together"] * 1e6)


async def _mean_cpu_s(work: Callable[[], Awaitable[None]], times: int) -> float:
    begin = time.process_time()
    for _ in range(times):
        await work()
    return (time.process_time() - begin) / times


async def many_vectors(embed: Callable[[list[str]], Awaitable[Vectors]]) -> None:
    """`embed` asks for a vector for each text; what it returns is freed within the measured time."""
    texts = [f"{TEXT}, the {number}th" for number in range(CASE["texts"])]

    async def once() -> None:
        vectors = await embed(texts)
        expect((len(vectors), {len(vector) for vector in vectors}), (len(texts), {CASE["dimension"]}))

    await embed(texts[:1])
    if CASE["traced"]:
        tracemalloc.start()
        await once()
        report(peak_memory_mb=tracemalloc.get_traced_memory()[1] / (1 << 20))
        return
    await once()
    report(decode_ms=median([await _mean_cpu_s(once, 1) for _ in range(CASE["calls"])]) * 1e3)


class Delays:
    """How late chunks arrive once all streams are open, and what the process does until the first one ends."""

    def __init__(self) -> None:
        self.model = f"wave {os.getpid()}"
        self._unopened = CASE["streams"]
        self._since_ns = sys.maxsize
        self._counted = array("d")
        self._before = array("d")
        self._marks: list[tuple[int, float, float]] = []

    def opened(self) -> None:
        """A stream has begun to answer; when all have, counting begins after the time to settle."""
        self._unopened -= 1
        if not self._unopened:
            self._since_ns = time.monotonic_ns() + int(CASE["settle_s"] * 1e9)
            asyncio.get_running_loop().call_later(CASE["settle_s"], self._mark)

    def add(self, sent_ns: str) -> None:
        """A chunk has arrived whose text is when it was sent, or none in the last one."""
        now_ns = time.monotonic_ns()
        if not sent_ns:
            if len(self._marks) == 1:
                self._mark()
            return
        late_ms = (now_ns - int(sent_ns)) / 1e6
        (self._counted if int(sent_ns) >= self._since_ns else self._before).append(late_ms)

    def _mark(self) -> None:
        self._marks.append((len(self._counted), time.monotonic(), time.process_time()))

    def report(self) -> None:
        """Print the figures, at the end of all streams."""
        (first, begin_s, cpu_begin_s), (last, end_s, cpu_end_s) = self._marks
        chunks, wall_s, cpu_s = last - first, end_s - begin_s, cpu_end_s - cpu_begin_s
        centiles = quantiles(self._counted, n=CENTILES)
        report(
            p50_ms=centiles[49],
            p99_ms=centiles[98],
            max_ms=max(self._counted),
            opening_max_ms=max(self._before),
            chunks_per_s=chunks / wall_s,
            cpu_us_per_chunk=cpu_s / chunks * 1e6,
            cpu_percent=cpu_s / wall_s * 100,
        )


async def many_streams(follow: Callable[[Delays], Awaitable[None]]) -> None:
    """`follow` streams one chat, says when it began and hands over the text of every chunk."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    delays = Delays()
    await asyncio.gather(*(follow(delays) for _ in range(CASE["streams"])))
    delays.report()
