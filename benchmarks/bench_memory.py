"""What a memory costs an application, beside mem0's, on the same scripted Ollama in a process of its own.

The language model takes a second or no time at all, an embedding request a tenth of one or none: what remains is the
memory's own. mem0's `add` waits for its facts; ours returns before, and is also timed to the end of its facts. Each
measured loop runs beside a task that sees how long the event loop does not come round. A "split" server writes the head
and the body of an answer apart and without TCP_NODELAY, so that each answer waits for an acknowledgement of its head.
"""

from __future__ import annotations

from typing import Any

from .records import CONTENDERS, Bars, Benchmark, Contender, Rows, ratio

_OURS = ("httpx", "anyio", "msgspec", "tenacity", "numpy")
_THEIRS = ("mem0ai", "ollama")
_SLOW: dict[str, Any] = {"llm_ms": 1_000, "embed_ms": 100}
_INSTANT: dict[str, Any] = {"llm_ms": 0, "embed_ms": 0}
_OPS: dict[str, dict[str, Any]] = {
    "adds": {**_SLOW, "embed_ms": 0},
    "adds slow": _SLOW,
    "returns": _INSTANT,
    "search": _INSTANT,
    "burst": {"llm_ms": 0, "embed_ms": 100},
    "rate": _INSTANT,
    "requests": _INSTANT,
    "returns split": {**_INSTANT, "is_split": True},
    "search split": {**_INSTANT, "is_split": True},
}
_MEM0_ROWS = 123
"""mem0 is asked with a small store: filling a large one takes it minutes."""


def bars(rows: Rows) -> Bars:
    """Ours, then how many times better ours is."""

    def ours(op: str, figure: str) -> float | None:
        return rows[f"ours {op}"].median(figure)

    def gain(op: str, figure: str) -> float | None:
        return ratio(rows[f"mem0 {op}"].median(figure), ours(op, figure))

    stalls = [ours(op, "stall_ms") for op in _OPS if op != "requests"]
    return {
        "adds_64_concurrent_s": ours("adds", "seconds"),
        "adds_64_concurrent_ratio_vs_mem0": gain("adds", "seconds"),
        "adds_64_slow_embeds_s": ours("adds slow", "seconds"),
        "adds_64_slow_embeds_ratio_vs_mem0": gain("adds slow", "seconds"),
        "add_returns_p50_ms": ours("returns", "p50_ms"),
        "add_returns_ratio_vs_mem0": gain("returns", "p50_ms"),
        "search_p50_ms": ours("search", "p50_ms"),
        "search_ratio_vs_mem0": gain("search", "p50_ms"),
        "add_returns_split_p50_ms": ours("returns split", "p50_ms"),
        "add_returns_split_ratio_vs_mem0": gain("returns split", "p50_ms"),
        "search_split_p50_ms": ours("search split", "p50_ms"),
        "search_split_ratio_vs_mem0": gain("search split", "p50_ms"),
        "searches_64_concurrent_s": ours("burst", "seconds"),
        "searches_64_concurrent_ratio_vs_mem0": gain("burst", "seconds"),
        "searches_per_s": ours("rate", "per_s"),
        "search_cpu_ms": ours("rate", "cpu_ms_each"),
        "max_loop_stall_ms": max((stall for stall in stalls if stall is not None), default=None),
        "import_ratio_vs_mem0": gain("import", "cpu_ms"),
        "rss_ratio_vs_mem0": gain("returns", "peak_rss_mb"),
        "rss_mb": ours("returns", "peak_rss_mb"),
        "embeds_before_add_returns": ours("requests", "embeds_before"),
        "llm_before_add_returns": ours("requests", "llm_before"),
        "embeds_behind_add": ours("requests", "embeds_behind"),
        "llm_behind_add": ours("requests", "llm_behind"),
    }


def _pair(op: str, case: dict[str, Any]) -> tuple[Contender, ...]:
    own = {**case, "op": op.partition(" ")[0]}
    small = {**own, "rows": _MEM0_ROWS, "users": 1}
    return (
        Contender(f"ours {op}", CONTENDERS / "memory_ours.py", _OURS, "pip install .", own),
        Contender(f"mem0 {op}", CONTENDERS / "memory_mem0.py", _THEIRS, "pip install '.[bench-memory]'", small),
    )


BENCHMARK = Benchmark(
    name="memory",
    about="adds, facts and searches of a memory, beside mem0 on the same scripted Ollama",
    contenders=(
        *(contender for op, case in _OPS.items() for contender in _pair(op, case)),
        Contender("ours import", CONTENDERS / "memory_import_ours.py", _OURS, "pip install ."),
        Contender("mem0 import", CONTENDERS / "memory_import_mem0.py", _THEIRS, "pip install '.[bench-memory]'"),
    ),
    bars=bars,
    case={"dimension": 768, "together": 64, "adds": 60, "searches": 100, "rows": 10_000, "users": 100, "seconds": 5.0},
    quick_case={"together": 8, "adds": 10, "searches": 10, "rows": 200, "users": 10, "seconds": 0.5},
    repeats=3,
    quick_repeats=1,
    server_script="benchmarks.memory_script:memory",
    timeout_s=600.0,
)
