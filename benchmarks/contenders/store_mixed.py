"""Several processes that search one file without a pause, while another one adds turns to it without a pause."""

import asyncio
import json
import shutil
import subprocess
import sys
import time

import numpy as np

from benchmarks.footprint import peak_rss_mb, report
from benchmarks.phases import CASE
from benchmarks.store_case import DATA, LIMIT, MODEL, PATH, asked, selection_of, turn
from benchmarks.store_phases import centiles, dense, keyword, timed
from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Scope
from ollama_async_mem.stores import open_store

COPY = PATH.with_name("mixed.db")
ROLE = CASE.get("role", "")


async def work() -> None:
    """Read or write until the time is over, from when the word is given; times in milliseconds, and what failed."""
    queries, times, errors = asked(), [], 0
    async with open_store(COPY, create=False) as store:

        async def read(number: int) -> None:
            search, place = (keyword, dense)[number % 2], number % len(queries.texts)
            found = await search(store, queries, place)
            if len(found) != LIMIT:
                raise StoreError(f"{len(found)} rows were found")

        async def write(number: int) -> None:
            added = turn(DATA.rows + number, f"A turn that was added while others searched, the {number}th.")
            await store.add_turns([added], [queries.vectors[number % len(queries.texts)]], model=MODEL)

        step = write if ROLE == "writer" else read
        await step(0)
        await step(1)
        print("ready", flush=True)
        sys.stdin.readline()
        begin, number = time.monotonic(), 2
        while time.monotonic() < begin + CASE["seconds"]:
            try:
                times.append((await timed(step(number)))[0])
            except StoreError as exc:
                print(exc, file=sys.stderr)
                errors += 1
            number += 1
    print(json.dumps({"times": times, "errors": errors, "rss_mb": peak_rss_mb()}))


def together() -> None:
    """Start all at the same time, and look for what was added at the end."""
    shutil.copyfile(PATH, COPY)
    roles = ["writer", *["reader"] * CASE["readers"]]
    processes = [start(role) for role in roles]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    writer, *readers = [json.loads(process.communicate()[0]) for process in processes]
    reads = [ms for reader in readers for ms in reader["times"]]
    written = asyncio.run(rows()) - DATA.rows
    lost = len(writer["times"]) + 2 - written
    report(
        **centiles(reads, "read_"),
        **centiles(writer["times"], "write_"),
        errors=sum(each["errors"] for each in (writer, *readers)) + abs(lost),
        reads_per_s=len(reads) / CASE["seconds"],
        writes_per_s=len(writer["times"]) / CASE["seconds"],
        reader_rss_mb=max(reader["rss_mb"] for reader in readers),
    )
    COPY.unlink()


def start(role: str) -> subprocess.Popen[str]:
    """Run this program in another role."""
    command = [sys.executable, "-P", __file__, json.dumps({**CASE, "role": role})]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def rows() -> int:
    """How many rows the file has."""
    async with open_store(COPY, create=False) as store:
        return (await store.counts(Scope())).turns


if ROLE:
    asyncio.run(work())
else:
    together()
