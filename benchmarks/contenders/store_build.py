"""Builds the data of a case through the port of the stores, unless this run has them; no reader has this in memory."""

import asyncio
import shutil
from pathlib import Path

from benchmarks.footprint import peak_rss_mb, report
from benchmarks.phases import CASE, expect
from benchmarks.store_case import DATA, FOLDER, MODEL, STORE, built, keep, open_data
from benchmarks.store_data import Made, embedder
from benchmarks.store_phases import timed

ROW_BYTES = {"sqlite": 1_600, "postgres": 4_000}  # what a row takes beside its vector, amply
COPIES = {"sqlite": 2, "postgres": 3}  # how often a vector is written, to tables, indexes and logs
BASE_BYTES = 300 << 20


def require_room() -> None:
    """End where the disk or the memory is too small, rather than in the middle."""
    disk = DATA.rows * (ROW_BYTES[STORE] + COPIES[STORE] * 4 * DATA.dimension)
    if (free := shutil.disk_usage(FOLDER).free) < disk:
        raise SystemExit(
            f"{DATA.rows:,} rows need {disk / 1e9:.1f} GB of disk, {FOLDER.parent} has {free / 1e9:.1f}: "
            "make room, or name another folder in TMPDIR"
        )
    memory = BASE_BYTES + DATA.rows * DATA.dimension
    if (available := available_bytes()) < memory:
        raise SystemExit(
            f"{DATA.rows:,} rows need {memory / 1e9:.1f} GB of free memory, there are {available / 1e9:.1f}"
        )


def available_bytes() -> float:
    """The memory that is free or can be freed, where Linux tells it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


async def build() -> dict[str, float]:
    """Add all rows, in batches; making them and finding the exact answers does not count."""
    made, seconds = Made(await embedder(), CASE["queries"]), 0.0
    async with open_data() as store:
        for turns, vectors in made.batches():
            took_ms, _ = await timed(store.add_turns(turns, list(vectors), model=MODEL))
            seconds += took_ms / 1e3
        optimize_ms, _ = await timed(store.optimize())
        found = await store.statistics()
    expect(found.turns, DATA.rows)
    figures = {"build_rows_per_s": DATA.rows / seconds, "optimize_s": optimize_ms / 1e3}
    figures |= {"build_rss_mb": peak_rss_mb(), "disk_mb": found.size_bytes / (1 << 20)}
    keep(made.asked(), figures)
    return figures


if (figures := built()) is None:
    require_room()
    figures = asyncio.run(build())
report(**figures)
