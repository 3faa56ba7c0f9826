"""Looks at a store's file from the outside, and writes to one from processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Change, Scope, Selection
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores._sqlite_migrations import MIGRATIONS
from stores.samples import DIMENSION, LEASE, MODEL, START, add, axis, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:  # noqa: S603 - our own command
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S603, S607 - as above


def store_threads() -> list[threading.Thread]:
    """The threads of stores that are running."""
    return [thread for thread in threading.enumerate() if thread.name == "store"]


def overwrite(path: Path, start: int, content: bytes) -> None:
    """Change a part of a file."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def execute(path: Path, sql: str) -> list[Any]:
    """Run one statement on a file."""
    with closing(sqlite3.connect(path)) as conn, conn:
        return conn.execute(sql).fetchall()


DONE = "0195a000-0000-7000-8000-000000000001"


def make_old(path: Path, version: int) -> None:
    """Write a file as the first versions of the library did."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        for number, step in enumerate(MIGRATIONS[:version], 1):
            step(conn)
            conn.execute("INSERT INTO migrations VALUES (?, ?, 0)", (number, step.__name__))
        conn.executescript(_OLD)
        attempts = "attempts" if version == 1 else "claims"
        conn.execute(f"UPDATE jobs SET {attempts} = 3, last_error = 'model away' WHERE state = 'queued'")  # noqa: S608 - a column
        vectors = [(seq, axis(*weights).tobytes()) for seq, weights in ((1, (1,)), (2, (0, 1)), (3, (0, 0, 1)))]
        conn.executemany("INSERT INTO vectors VALUES (?, ?)", vectors)
        conn.execute("INSERT INTO memory_index (rowid, body, scope) SELECT seq, body, scope FROM memory_texts")


_OLD = f"""
INSERT INTO meta VALUES ('embedding_space', '{{"model": "{MODEL}", "dimension": {DIMENSION}}}');
INSERT INTO names VALUES (1, x'616c696365');
INSERT INTO scopes VALUES (1, 1, 0, 0, 0);
INSERT INTO memories (id, scope_id, kind, role, text, quote, at, at_offset_s, created_at, valid_to, metadata) VALUES
  ('first', 1, 'turn', 'user', 'I love peanuts', NULL, 2, 0, 2, NULL, NULL),
  ('second', 1, 'turn', 'user', 'I moved to Lyon', NULL, 3, 3600, 3, NULL, CAST('{{"topic":"home"}}' AS BLOB)),
  ('known', 1, 'fact', NULL, 'She lives in Paris', 'Paris', 1, 0, 4, 5, CAST('{{"topic":"home"}}' AS BLOB));
INSERT INTO links VALUES (3, 0, 1);
INSERT INTO jobs (seq, id, scope_id, state) VALUES (1, '{DONE}', 1, 'done'), (2, 'waiting', 1, 'queued');
INSERT INTO job_turns VALUES (2, 0, 2);
"""  # noqa: S608 - written here


def run_python(function: Callable[..., object], *args: object) -> subprocess.Popen[str]:
    """Run a function of this module in a process of its own; what it prints can be read line by line."""
    code = f"from stores import files; files.{function.__name__}(*{[str(arg) for arg in args]!r})"
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True
    )


PEANUTS, CHANGED = ({"a": word, "b": "peanut"} for word in ("peanut", "walnut"))


def write_forever(path: str, round_number: str) -> None:
    """Add pairs of turns from many tasks, change some, delete others, and print each once it is acknowledged."""

    async def write(user: int) -> None:
        for n in range(1_000_000):
            name = f"{round_number}.{user}.{n}"
            one, other = [turn(f"peanut {name} {half}", Scope(f"u{user}")) for half in "ab"]
            await add(store, one, other, extract=True)
            print("added", name, flush=True)  # noqa: T201 - this is the acknowledgement
            if n % 3 == 1:
                text = Change(text=f"walnut {name} a")
                await store.update(one.id, text, vector=axis(0, 1), model=MODEL)
                print("updated", name, flush=True)  # noqa: T201 - as above
            if n % 3 == 2:
                await store.delete_all(Selection(where=parse_filters({"id": [one.id, other.id]})))
                print("deleted", name, flush=True)  # noqa: T201 - as above

    async def main() -> None:
        async with store, asyncio.TaskGroup() as tasks:
            for user in range(8):
                tasks.create_task(write(user))

    store = open_store(path)
    asyncio.run(main())


def after(name: str, done: str) -> list[dict[str, str] | None]:
    """The states in which a pair may be after this was acknowledged: also what comes next may have happened."""
    states = {"added": PEANUTS, "updated": CHANGED, "deleted": None}
    following = {1: "updated", 2: "deleted"}.get(int(name.rpartition(".")[2]) % 3, done)
    return [states[done], states[following]]


def pairs(path: Path) -> dict[str, dict[str, str]]:
    """The pairs in a file: by name, the word of each half."""
    found: dict[str, dict[str, str]] = {}
    for word, name, half in map(str.split, inspect(path)):
        found.setdefault(name, {})[half] = word
    return found


async def checked(path: Path) -> list[str]:
    """What a store finds wrong with a file."""
    async with open_store(path) as store:
        return await store.check()


def open_and_add(path: str, name: str) -> None:
    """Open a store that may be new, and add one turn."""

    async def main() -> None:
        async with open_store(path) as store:
            await add(store, turn(name))
            await store.dense_candidates(Selection(scope=Scope()), axis(1), model=MODEL, limit=1)

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
            while jobs := await store.claim_jobs(now=START, lease=LEASE, limit=1):
                print(jobs[0].id, flush=True)  # noqa: T201 - the parent compares them

    asyncio.run(main())
