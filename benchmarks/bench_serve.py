"""What the server costs, with load from another process: the proxy against a direct connection, and REST.

The proxy's processor time for a chunk is that of its process while 200 streams are under way: at a pace, when each
chunk comes alone, and as fast as they come. Beside it is a bare relay without HTTP, the floor. Chats over REST run for
10 minutes, 500 at a time; every user has a memory of their own, and no chunk of a chat waits for that. What they keep
is held in memory up to a bound, so the growth is also that of chats of which nothing is kept. Searches are in 10,000
memories of 100 users, as in the benchmark of the memory, and in as many of a single one.
"""

from __future__ import annotations

from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .records import CONTENDERS, Bars, Benchmark, Contender, Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PACKAGES = ("uvicorn", "httptools", "litestar", "cyclopts")


def bars(rows: Rows) -> Bars:
    """The figures of the ways in."""
    proxy, search, chats = rows["proxy"], rows["search"], rows["chats"]
    return {
        "proxy_added_ms": proxy.median("added_ms"),
        "proxy_cpu_us_per_chunk": proxy.median("paced_us"),
        "proxy_floor_cpu_us_per_chunk": proxy.median("paced_floor_us"),
        "proxy_unpaced_cpu_us_per_chunk": proxy.median("unpaced_us"),
        "proxy_unpaced_floor_cpu_us_per_chunk": proxy.median("unpaced_floor_us"),
        "proxy_memory_added_ms": rows["memory"].median("added_ms"),
        "rest_search_per_s": search.median("per_s"),
        "rest_search_p99_ms": search.median("p99_ms"),
        "rest_search_one_user_per_s": rows["search one user"].median("per_s"),
        "errors": chats.median("errors"),
        "rss_growth_ratio": chats.median("rss_growth_ratio"),
        "rss_growth_ratio_nothing_kept": rows["chats forgotten"].median("rss_growth_ratio"),
        "ready_ms": rows["ready"].median("ready_ms"),
    }


@contextmanager
def place(_contenders: Sequence[Contender]) -> Iterator[dict[str, Any]]:
    """A folder for the store."""
    with TemporaryDirectory(prefix="serve-benchmark-") as folder:
        yield {"folder": folder}


def _contender(name: str, **case: Any) -> Contender:
    return Contender(
        name,
        CONTENDERS / f"serve_{name.partition(' ')[0]}.py",
        _PACKAGES,
        "pip install '.[server,mcp,cli]'",
        {"users": 1, **case},
        prepare=CONTENDERS / "serve_fill.py",
    )


BENCHMARK = Benchmark(
    name="serve",
    about="the server under load from outside: the proxy beside a direct connection, REST searches and chats",
    contenders=(
        *map(_contender, ("ready", "proxy", "memory", "search one user")),
        _contender("search", users=100),
        _contender("chats"),
        _contender("chats forgotten", is_kept=False),
    ),
    bars=bars,
    case={
        "dimension": 768,
        "rows": 10_000,
        "requests": 200,
        "streams": 200,
        "chunks_per_s": 50,
        "seconds": 5.0,
        "rounds": 3,
        "connections": 16,
        "chats": 500,
        "chunks": 100,
        "chat_seconds": 600.0,
    },
    quick_case={
        "rows": 500,
        "requests": 30,
        "streams": 50,
        "seconds": 1.0,
        "rounds": 1,
        "chats": 50,
        "chat_seconds": 5.0,
    },
    repeats=1,  # ten minutes of chats; what is short is measured several times in its run
    quick_repeats=1,
    server_script="benchmarks.serve_script:serve",
    place=place,
    timeout_s=900.0,
)
