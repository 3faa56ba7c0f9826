"""What many streams do to each other: 1,000 chats in one process, each with 20 chunks a second.

A chunk's text is when the server sent it; its delay is how much later the program has it. Counting begins a second
after the last stream was opened. `chunks_per_s` says whether server and client kept up; `floor_p99_added_delay_ms`
how much of the delay is a machine that is busy with something else.
"""

from __future__ import annotations

from .lineup import lineup
from .records import Bars, Benchmark, Rows


def bars(rows: Rows) -> Bars:
    """Delays and memory, the others' beside."""
    ours, official, floor = rows["ours"], rows["official"], rows["floor"]
    return {
        "p99_added_delay_ms": ours.median("p99_ms"),
        "rss_mb": ours.median("peak_rss_mb"),
        "p50_added_delay_ms": ours.median("p50_ms"),
        "chunks_per_s": ours.median("chunks_per_s"),
        "cpu_us_per_chunk": ours.median("cpu_us_per_chunk"),
        "cpu_percent": ours.median("cpu_percent"),
        "floor_p99_added_delay_ms": floor.median("p99_ms"),
        "official_p99_added_delay_ms": official.median("p99_ms"),
        "official_rss_mb": official.median("peak_rss_mb"),
        "official_chunks_per_s": official.median("chunks_per_s"),
    }


BENCHMARK = Benchmark(
    name="streams",
    about="1,000 streams at once with 20 chunks a second each: delay of a chunk and memory",
    contenders=lineup("streams"),
    bars=bars,
    case={"streams": 1_000, "chunks_per_s": 20, "seconds": 6.0, "settle_s": 1.0},
    quick_case={"streams": 100, "seconds": 1.0, "settle_s": 0.2},
    repeats=5,
    quick_repeats=1,
    server_script="benchmarks.scripts:streams",
)
