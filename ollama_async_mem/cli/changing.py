"""The commands that change and destroy memories."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import App, Parameter

from ollama_async_mem.cli.lines import agrees
from ollama_async_mem.cli.options import Json, Setup, Whose, json_object
from ollama_async_mem.cli.output import note, plural, say, show_json, show_memories
from ollama_async_mem.cli.reading import named, show_record
from ollama_async_mem.cli.session import open_memory, open_offline
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.records import Scope

if TYPE_CHECKING:
    from ollama_async_mem.records import MemoryRecord

__all__ = ["changing"]

_ANYBODY = Whose()
_DEFAULT = Setup()

changing = App()


@changing.command
async def update(
    memory_id: str,
    text: str | None = None,
    /,
    *,
    metadata: str | None = None,
    expires: str | None = None,
    actor: str | None = None,
    cause: str | None = None,
    json: Json = False,
    setup: Setup = _DEFAULT,
) -> None:
    """Change a memory; what it was stays in its history. Only a new text needs a server, to embed it.

    Args:
        memory_id: Its id, as `list` and `search` show it.
        text: The new text; without it the text stays.
        metadata: A JSON object that is merged into the metadata; a null removes a key.
        expires: From when on it is not found any more, such as 2026-12-31, or "never".
        actor: Who changes it, for the history.
        cause: Why, for the history.
    """
    beside = json_object("--metadata", metadata)
    end = None if expires == "never" else expires
    async with open_offline(setup) if text is None else open_memory(setup, quiet=json) as memory:
        changed = await memory.update(
            memory_id,
            msgspec.UNSET if text is None else text,
            metadata=msgspec.UNSET if beside is None else beside,
            expires_at=msgspec.UNSET if expires is None else end,
            actor=actor,
            cause=cause,
        )
    show_record(changed, json=json)


@changing.command
def delete(
    *memory_ids: str,
    all: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False,
    json: Json = False,
    whose: Whose = _ANYBODY,
    setup: Setup = _DEFAULT,
) -> int:
    """Destroy memories for good. In a terminal it asks first. Needs no server.

    Args:
        memory_ids: Their ids, as `list` and `search` show them.
        all: In place of ids, all memories of --user, --agent or --run.
        yes: Do not ask.
    """
    scope = Scope(**whose.ids)
    _require_one_way(memory_ids, scope, all=all)
    if not yes:  # it is asked between two event loops: a thread that reads the terminal could not be stopped
        found = asyncio.run(_found(memory_ids, whose, setup))
        if not _confirmed(found, scope, quiet=json):
            note("nothing was deleted")
            return 1
    deleted = asyncio.run(_delete(memory_ids, whose, setup))
    if json:
        show_json({"deleted": deleted})
    else:
        say(f"deleted {plural(deleted, 'memory')}")
    return 0


def _require_one_way(memory_ids: tuple[str, ...], scope: Scope, *, all: bool) -> None:
    if all == bool(memory_ids):
        raise ConfigError("say which memories: their ids, or --all with --user, --agent or --run")
    if all != bool(scope):
        raise ConfigError("--all needs --user, --agent or --run, and they need --all")


async def _found(memory_ids: tuple[str, ...], whose: Whose, setup: Setup) -> list[MemoryRecord] | int:
    """The memories that are meant, or how many there are of a scope."""
    async with open_offline(setup) as memory:
        if memory_ids:
            return [await memory.get(memory_id) for memory_id in memory_ids]
        counts = await memory.count(**whose.ids)
    return counts.turns + counts.facts


def _confirmed(found: list[MemoryRecord] | int, scope: Scope, *, quiet: bool) -> bool:
    """Ask in a terminal. A program that names ids means them, but must say --yes for all memories of someone."""
    if not sys.stdin.isatty():
        if isinstance(found, int):
            raise ConfigError("add --yes to delete all memories of someone without being asked")
        return True
    if isinstance(found, int):
        what = f"all {plural(found, 'memory')} of {named(scope)}"
    else:
        show_memories([] if quiet else found)
        what = plural(len(found), "memory")
    return agrees(f"delete {what} for good?")


async def _delete(memory_ids: tuple[str, ...], whose: Whose, setup: Setup) -> int:
    async with open_offline(setup) as memory:
        if not memory_ids:
            return await memory.delete_all(**whose.ids)
        for memory_id in memory_ids:
            await memory.delete(memory_id)
    return len(memory_ids)
