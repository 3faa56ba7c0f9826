"""What bulk embedding costs: 1,000 vectors of 768 dimensions in one request, from the call to their end of life.

Memory is the peak of Python's own allocations, from processes of their own (`traced`), since tracing takes time.
"""

from __future__ import annotations

from .lineup import lineup
from .records import Bars, Benchmark, Rows, ratio


def bars(rows: Rows) -> Bars:
    """Processor time and peak memory of one call."""
    cpu = {name: rows[name].median("decode_ms") for name in ("ours", "official", "floor")}
    peak = {name: rows[f"{name} traced"].median("peak_memory_mb") for name in ("ours", "official", "floor")}
    return {
        "decode_ratio_vs_official": ratio(cpu["official"], cpu["ours"]),
        "decode_ratio_vs_floor": ratio(cpu["ours"], cpu["floor"]),
        "peak_memory_ratio_vs_official": ratio(peak["ours"], peak["official"]),
        "decode_ms": cpu["ours"],
        "peak_memory_mb": peak["ours"],
        "rss_mb": rows["ours"].median("peak_rss_mb"),
    }


BENCHMARK = Benchmark(
    name="embed",
    about="1,000 embeddings of 768 dimensions in one request: processor time and memory",
    contenders=(*lineup("embed", traced=False), *lineup("embed", "traced", traced=True)),
    bars=bars,
    case={"dimension": 768, "texts": 1_000, "calls": 7},
    quick_case={"texts": 100, "calls": 2},
    quick_repeats=1,
    server_script="benchmarks.scripts:embed",
)
