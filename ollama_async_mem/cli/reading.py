"""The commands that look: what fits a query, what is stored, how it came to be, and how much there is."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from ollama_async_mem.cli.options import Json, Kinds, Setup, Which, Who, Whose
from ollama_async_mem.cli.output import (
    note,
    plural,
    say,
    show_events,
    show_fields,
    show_hits,
    show_json,
    show_memories,
)
from ollama_async_mem.cli.session import open_offline, open_to_search
from ollama_async_mem.records import MemoryRecord, Page, Scope, Sort

__all__ = ["reading"]

_ALL: Kinds = ("turn", "fact")
_NOBODY = Who()
_ANYBODY = Whose()
_ANY = Which()
_DEFAULT = Setup()
_MOST = 1_000

reading = App()


@reading.command
async def search(
    query: str,
    /,
    *,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 10,
    kinds: Kinds = _ALL,
    min_score: float | None = None,
    explain: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    which: Which = _ANY,
    who: Who = _NOBODY,
    setup: Setup = _DEFAULT,
) -> None:
    """Find the memories that fit a query, best first.

    Args:
        query: What to look for, in words or as a question.
        limit: The most memories to show.
        min_score: Leave out what scores less, from 0 to 1; 0.5 leaves out what fits no better than chance.
        explain: Show what each score is made of.
    """
    conditions = which.conditions
    async with open_to_search(setup) as memory:
        found = await memory.search(
            query, limit=limit, kinds=kinds, min_score=min_score, explain=explain, **conditions, **who.ids
        )
    if json:
        show_json(found)
        return
    show_hits(found.hits)
    if found.degraded:
        note("no server embeds the query, so only its words were looked for", style="yellow")
    if not found.hits:
        note("nothing found")


@reading.command
async def context(
    query: str,
    /,
    *,
    tokens: int = 800,
    json: Json = False,
    which: Which = _ANY,
    who: Who = _NOBODY,
    setup: Setup = _DEFAULT,
) -> None:
    """Write what fits a query as dated lines, for the prompt of any model.

    Args:
        query: What the prompt is about.
        tokens: The most tokens of it, about four bytes each.
    """
    conditions = which.conditions
    async with open_to_search(setup) as memory:
        text = await memory.context(query, max_tokens=tokens, **conditions, **who.ids)
    if json:
        show_json({"context": text})
    elif text:
        say(text)
    else:
        note("nothing found")


@reading.command(name="list")
async def list_(
    *,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 20,
    all: Annotated[bool, Parameter(negative="")] = False,
    cursor: str | None = None,
    sort: Annotated[Sort, Parameter(allow_leading_hyphen=True)] = "-at",
    kinds: Kinds = _ALL,
    json: Json = False,
    which: Which = _ANY,
    who: Who = _NOBODY,
    setup: Setup = _DEFAULT,
) -> None:
    """List memories, newest first, also those that no longer hold. Needs no server.

    Args:
        limit: The most memories to show.
        all: Show all of them.
        cursor: Where to go on; the end of a longer list says it.
        sort: By when it was said (at) or stored (created_at); with a minus the newest first.
    """
    conditions = which.conditions
    async with open_offline(setup) as memory:

        async def page(cursor: str | None) -> Page:
            count = _MOST if all else limit
            return await memory.list(limit=count, cursor=cursor, sort=sort, kinds=kinds, **conditions, **who.ids)

        found = await page(cursor)
        items = list(found.items)
        while all and found.cursor:
            found = await page(found.cursor)
            items += found.items
    _show_page(items, found.cursor, json=json)


def _show_page(items: list[MemoryRecord], cursor: str | None, *, json: bool) -> None:
    if json:
        show_json(Page(tuple(items), cursor))
        return
    show_memories(items)
    if cursor:
        note(f"more: --cursor {cursor}, or --all")
    if not items:
        note("no memories; 'ollama-async-mem add' stores some")


@reading.command
async def get(memory_id: str, /, *, json: Json = False, setup: Setup = _DEFAULT) -> None:
    """Show one memory with all that is known of it. Needs no server.

    Args:
        memory_id: Its id, as `list` and `search` show it.
    """
    async with open_offline(setup) as memory:
        found = await memory.get(memory_id)
    show_record(found, json=json)


def show_record(memory: MemoryRecord, *, json: bool) -> None:
    """Print all of a memory."""
    if json:
        show_json(memory)
        return
    fields = msgspec.to_builtins(memory)
    dates = [f"{day['text']} = {day['start']} to {day['end']}" for day in fields.pop("dates")]
    show_fields({**fields.pop("scope"), **fields, "dates": "; ".join(dates)})


@reading.command
async def history(memory_id: str, /, *, json: Json = False, setup: Setup = _DEFAULT) -> None:
    """Tell what happened to a memory, oldest first. Needs no server.

    Args:
        memory_id: Its id; also that of one that was deleted.
    """
    async with open_offline(setup) as memory:
        events = await memory.history(memory_id)
    if json:
        show_json({"events": events})
    else:
        show_events(events)


@reading.command
async def scopes(
    *,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 100,
    json: Json = False,
    whose: Whose = _ANYBODY,
    setup: Setup = _DEFAULT,
) -> None:
    """List whose memories there are, by user, agent and run. Needs no server.

    Args:
        limit: The most to show.
    """
    async with open_offline(setup) as memory:
        found = await memory.scopes(limit=limit, **whose.ids)
    if json:
        show_json({"scopes": found})
        return
    for counted in found:
        counts = f"{plural(counted.turns, 'turn')}, {plural(counted.facts, 'fact')}"
        say(f"{counted.newest:%Y-%m-%d}  {named(counted.scope)}: {counts}")
    if len(found) == limit:
        note("there may be more: --limit")
    if not found:
        note("no memories; 'ollama-async-mem add' stores some")


def named(scope: Scope) -> str:
    """Write a scope for people."""
    ids = (("user", scope.user_id), ("agent", scope.agent_id), ("run", scope.run_id))
    return ", ".join(f"{what} {name}" for what, name in ids if name is not None) or "everyone"


@reading.command
async def stats(*, json: Json = False, setup: Setup = _DEFAULT) -> None:
    """Count what the store holds: memories, jobs that wait or were given up, bytes. Needs no server."""
    async with open_offline(setup) as memory:
        held = (await memory.statistics()).store
    if json:
        show_json({"location": memory.store.location, **msgspec.to_builtins(held)})
        return
    space = f"{held.space.model}, {held.space.dimension} dimensions" if held.space else None
    show_fields({"store": memory.store.location, **msgspec.structs.asdict(held), "space": None, "embedder": space})
