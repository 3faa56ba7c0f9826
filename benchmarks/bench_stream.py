"""What a token costs: one streamed chat of 20,000 chunks, read to its end.

The server writes 64 KiB at a time, one HTTP chunk for each line, which is what a client that lags gets from Ollama.
Beside it, and in no bar: `big`, the same lines in HTTP chunks of 32 KiB as a proxy makes them, and `single`, one write
for each line as fast as the server can, where waking up for every few chunks costs all clients the same.
"""

from __future__ import annotations

from .lineup import lineup
from .records import Bars, Benchmark, Rows, ratio

VARIANTS = ("big", "single")


def bars(rows: Rows) -> Bars:
    """Processor time of the streaming alone, and of the whole process with its imports and warm-up."""
    cpu = {name: row.median("cpu_us_per_chunk") for name, row in rows.items()}
    whole = {name: row.median("cpu_ms") for name, row in rows.items()}
    compared: Bars = {
        "cpu_ratio_vs_official": ratio(cpu["official"], cpu["ours"]),
        "cpu_ratio_vs_floor": ratio(cpu["ours"], cpu["floor"]),
        "whole_process_ratio_vs_official": ratio(whole["official"], whole["ours"]),
        "cpu_us_per_chunk": cpu["ours"],
    }
    for variant in VARIANTS:
        ours = cpu[f"ours {variant}"]
        compared[f"{variant}_cpu_ratio_vs_official"] = ratio(cpu[f"official {variant}"], ours)
        compared[f"{variant}_cpu_ratio_vs_floor"] = ratio(ours, cpu[f"floor {variant}"])
    return compared


BENCHMARK = Benchmark(
    name="stream",
    about="one streamed chat of 20,000 chunks, processor time for each chunk",
    contenders=(
        *lineup("stream", variant="line"),
        *(contender for name in VARIANTS for contender in lineup("stream", name, variant=name)),
    ),
    bars=bars,
    case={"chunks": 20_000, "warm_up": 2_000},
    quick_case={"chunks": 2_000, "warm_up": 200},
    quick_repeats=1,
    server_script="benchmarks.scripts:stream",
)
