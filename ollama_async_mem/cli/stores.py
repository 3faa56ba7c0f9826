"""The commands on whole stores. They need no server, and a store that is to be read must exist."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App
from msgspec.structs import asdict
from rich.filesize import decimal

from ollama_async_mem.cli.options import Json  # noqa: TC001 - cyclopts resolves annotations at run time
from ollama_async_mem.cli.output import count_bar, note, say, show_json
from ollama_async_mem.config import load_settings
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores.transfer import copy_store

if TYPE_CHECKING:
    from ollama_async_mem.ports import MemoryStore
    from ollama_async_mem.stores.transfer import CopyReport

__all__ = ["stores"]

stores = App(name="store", help="Copy, check, tidy and back up whole stores. Needs no server.")


@stores.command
def copy(source: str, target: str, /, *, json: Json = False) -> int:
    """Copy a store into another, with vectors, histories and the work that waits.

    What is there already is left as it is: a copy that was stopped goes on when it is started again. The exit code is 1
    where some of it differs from what the source has.

    Args:
        source: Path or URL of a store.
        target: Path or URL of the other one; it is made where it is missing.
    """
    giving, taking = open_store(source, create=False), open_store(target)
    if os.path.realpath(giving.location) == os.path.realpath(taking.location):
        raise ConfigError(f"{source} and {target} are the same store: name another target")
    try:
        report = asyncio.run(_copy(giving, taking, quiet=json))
    except KeyboardInterrupt:
        note("stopped; the same command goes on where it was", style="yellow")
        raise
    if json:
        show_json({"source": giving.location, "target": taking.location, **asdict(report)})
        return int(bool(report.differing))
    say(f"copied {giving.location} to {taking.location}")
    say(f"turns: {report.turns:,}, facts: {report.facts:,}, new of these: {report.new:,}, jobs: {report.jobs:,}")
    if report.differing:
        say(
            f"{report.differing:,} memories are there in another state, and were left as they are: "
            f"{', '.join(report.examples)}{' ...' if report.differing > len(report.examples) else ''}",
            style="red",
        )
        say("to have them as the source has them, copy to a new store")
    return int(bool(report.differing))


async def _copy(source: MemoryStore, target: MemoryStore, *, quiet: bool) -> CopyReport:
    async with source, target:
        with count_bar("copying", quiet=quiet) as update:
            return await copy_store(source, target, on_progress=update)


@stores.command
def check(store: str | None = None, /, *, json: Json = False) -> int:
    """Look for damage: compare memories, vectors, indexes and links. The exit code is 1 where something is wrong.

    Args:
        store: Path or URL of the store. Default: OLLAMA_ASYNC_MEM_STORE, else one file in your data folder.
    """
    opened = _existing(store)
    wrong = asyncio.run(_check(opened))
    if json:
        show_json({"store": opened.location, "wrong": wrong})
        return int(bool(wrong))
    for what in wrong:
        say(what, style="red")
    say(f"{opened.location} is {'damaged' if wrong else 'sound'}")
    return int(bool(wrong))


async def _check(store: MemoryStore) -> list[str]:
    async with store:
        return await store.check()


@stores.command
def optimize(store: str | None = None, /, *, json: Json = False) -> None:
    """Bring indexes up to date and give free space back. May take long; nothing needs it.

    Args:
        store: Path or URL of the store. Default: OLLAMA_ASYNC_MEM_STORE, else one file in your data folder.
    """
    opened = _existing(store)
    before, after = asyncio.run(_optimize(opened))
    if json:
        show_json({"store": opened.location, "size_bytes_before": before, "size_bytes": after})
    else:
        say(f"{opened.location} is optimized: {decimal(after)}, before {decimal(before)}")


async def _optimize(store: MemoryStore) -> tuple[int, int]:
    """Do it; returns the size before and after, in bytes."""
    async with store:
        before = (await store.statistics()).size_bytes
        await store.optimize()
        return before, (await store.statistics()).size_bytes


@stores.command
def backup(target: str, /, *, store: str | None = None, json: Json = False) -> None:
    """Write a copy of a store's file to a new file, while others read and write.

    Args:
        target: Path of the new file.
        store: Path of the store. Default: OLLAMA_ASYNC_MEM_STORE, else one file in your data folder.
    """
    opened = _existing(store)
    asyncio.run(_backup(opened, target))
    size = Path(target).expanduser().stat().st_size
    if json:
        show_json({"store": opened.location, "backup": target, "size_bytes": size})
    else:
        say(f"backed up {opened.location} to {target}, {decimal(size)}")


async def _backup(store: MemoryStore, path: str) -> None:
    async with store:
        await store.backup(path)


def _existing(store: str | None) -> MemoryStore:
    """The store that is named, or the default one; it is not made where it is missing."""
    return open_store(load_settings(store=store).store, create=False)
