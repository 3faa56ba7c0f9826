"""What a small request costs: one embedding of 768 dimensions over connections that are kept."""

from __future__ import annotations

from .lineup import lineup
from .records import Bars, Benchmark, Rows, ratio

FIGURES = ("sequential", "gather")


def bars(rows: Rows) -> Bars:
    """Processor time of one request, one after the other and 50 at a time."""
    compared: Bars = {}
    for figure in FIGURES:
        cpu = {name: row.median(f"{figure}_us") for name, row in rows.items()}
        compared[f"{figure}_ratio_vs_official"] = ratio(cpu["official"], cpu["ours"])
        compared[f"{figure}_ratio_vs_floor"] = ratio(cpu["ours"], cpu["floor"])
        compared[f"{figure}_us"] = cpu["ours"]
    return compared


BENCHMARK = Benchmark(
    name="request",
    about="one embedding over keep-alive, sequential and 50 at a time, processor time for each request",
    contenders=lineup("request"),
    bars=bars,
    case={"dimension": 768, "sequential": 500, "together": 50, "rounds": 20},
    quick_case={"sequential": 50, "rounds": 2},
    quick_repeats=1,
    server_script="benchmarks.scripts:embed",
)
