"""Looks at a store's file from the outside, and writes to one from processes that can be killed."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_async_mem.records import Scope
from ollama_async_mem.stores import open_store
from stores.samples import BOTH, LEASE, MODEL, START, add, axis, turn

if TYPE_CHECKING:
    from collections.abc import Callable


def inspect(path: Path) -> list[str]:
    """Check a closed file as a whole: pages, links, keyword index, vectors. Returns the texts that it holds."""
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
        conn.execute("INSERT INTO memory_index (memory_index, rank) VALUES ('integrity-check', 1)")
        assert conn.execute("SELECT seq FROM memories EXCEPT SELECT seq FROM vectors").fetchall() == []
        counts = "SELECT (SELECT count(*) FROM memories), (SELECT count(*) FROM memory_index_docsize)"
        memories, indexed = conn.execute(counts).fetchone()
        assert memories == indexed
        return [text for (text,) in conn.execute("SELECT text FROM memories ORDER BY seq")]


def run_python(function: Callable[..., object], *args: object) -> subprocess.Popen[str]:
    """Run a function of this module in a process of its own; what it prints can be read line by line."""
    code = f"from stores import files; files.{function.__name__}(*{[str(arg) for arg in args]!r})"
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True
    )


def write_forever(path: str) -> None:
    """Add pairs of turns from many tasks, and print the name of each pair once it is acknowledged."""

    async def write(user: int) -> None:
        for n in range(1_000_000):
            name = f"u{user}n{n}"
            pair = [turn(f"peanut {name} {half}", Scope(f"u{user}")) for half in "ab"]
            await add(store, *pair, extract=True)
            print(name, flush=True)  # noqa: T201 - this is the acknowledgement

    async def main() -> None:
        async with store, asyncio.TaskGroup() as tasks:
            for user in range(8):
                tasks.create_task(write(user))

    store = open_store(path)
    asyncio.run(main())


def open_and_add(path: str, name: str) -> None:
    """Open a store that may be new, and add one turn."""

    async def main() -> None:
        async with open_store(path) as store:
            await add(store, turn(name))
            await store.dense_candidates(Scope(), axis(1), model=MODEL, kinds=BOTH, limit=1)

    asyncio.run(main())


def hold_lock(path: str, seconds: str) -> None:
    """Hold the write lock of a file for a while, saying when it is held."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        print("held", flush=True)  # noqa: T201 - the parent waits for it
        asyncio.run(asyncio.sleep(float(seconds)))


def claim_all(path: str) -> None:
    """Claim jobs until there are none, and print the id of each."""

    async def main() -> None:
        async with open_store(path) as store:
            while (job := await store.claim_job(now=START, lease=LEASE)) is not None:
                print(job.id, flush=True)  # noqa: T201 - the parent compares them

    asyncio.run(main())
