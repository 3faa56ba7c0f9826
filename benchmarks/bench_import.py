"""What importing the client costs a program: the whole life of a process that does nothing else."""

from __future__ import annotations

from .lineup import lineup
from .records import Bars, Benchmark, Rows, difference, ratio


def bars(rows: Rows) -> Bars:
    """Ours against the official client, as whole processes and with the bare interpreter taken off."""
    cpu = {name: row.median("cpu_ms") for name, row in rows.items()}
    net = {name: difference(cpu[name], cpu["floor"]) for name in ("ours", "official")}
    return {
        "cpu_ratio_vs_official": ratio(cpu["official"], cpu["ours"]),
        "net_cpu_ratio_vs_official": ratio(net["official"], net["ours"]),
        "cpu_ms": cpu["ours"],
        "net_cpu_ms": net["ours"],
        "wall_ms": rows["ours"].median("wall_ms"),
        "rss_mb": rows["ours"].median("peak_rss_mb"),
        "modules": rows["ours"].median("modules"),
    }


BENCHMARK = Benchmark(
    name="import",
    about="a process that imports the package, touches its client's name and ends",
    contenders=lineup("import"),
    bars=bars,
    repeats=15,
    quick_repeats=3,
    warmups=1,  # writes the byte code
)
