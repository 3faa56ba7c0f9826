"""Memories: stored, listed, looked at, changed and destroyed. Each route is one call of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.counts import Counts, ScopeCounts
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.records import AddResult, Event, Fact, Page, Scope, Turn
from ollama_async_mem.server.rest.routing import Route
from ollama_async_mem.server.rest.shapes import (
    AddMany,
    AddMemories,
    ChangeMemory,
    CountMemories,
    Deleted,
    DeleteMemories,
    ListMemories,
    ListScopes,
)

if TYPE_CHECKING:
    from ollama_async_mem.records import MemoryRecord
    from ollama_async_mem.server.rest.routing import Call

__all__ = ["ROUTES"]

_TEA = "I'm allergic to peanuts, and I like green tea"


async def add(call: Call, asked: AddMemories) -> AddResult:
    """Store messages word for word.

    When the answer comes they are durable and can be found. Facts are extracted behind, before the answer with `infer`
    "now", or not at all with false.
    """
    call.principal.require_write()
    return _noted(call, await call.memory.add(**call.within(asked)))


async def add_many(call: Call, asked: AddMany) -> list[AddResult]:
    """Store many conversations together, and answer with a result for each, in order.

    Where one is wrong, others may have been stored.
    """
    call.principal.require_write()
    added = await call.memory.add_many([call.within(addition) for addition in asked.additions])
    return [_noted(call, result) for result in added]


async def list_(call: Call, asked: ListMemories) -> Page:
    """List memories, newest first, also those that no longer hold.

    The `cursor` of one page fetches the next; it is null on the last.
    """
    return await call.memory.list(**call.within(asked))


async def delete_all(call: Call, asked: DeleteMemories) -> Deleted:
    """Destroy all memories of a scope that fit the filters, with `confirm=true`."""
    call.principal.require_write()
    if not asked.confirm:
        raise ConfigError("say confirm=true to destroy these memories: there is no way back")
    arguments = call.within(asked)
    del arguments["confirm"]
    call.audit.ids += [f"{name}={arguments[name]}" for name in Scope.__struct_fields__ if arguments[name]]
    return Deleted(await call.memory.delete_all(**arguments, actor=call.principal.name))


async def get(call: Call) -> MemoryRecord:
    """Return one memory."""
    return await call.owned(call.name)


async def update(call: Call, asked: ChangeMemory) -> MemoryRecord:
    """Change a memory, and note the change in its history."""
    call.principal.require_write()
    memory = await call.owned(call.name)
    return await call.memory.update(memory.id, **msgspec.structs.asdict(asked), actor=call.principal.name)


async def delete(call: Call) -> None:
    """Destroy a memory; with a message go the facts that no other message tells."""
    call.principal.require_write()
    memory = await call.owned(call.name)
    await call.memory.delete(memory.id, actor=call.principal.name)


async def history(call: Call) -> list[Event]:
    """Tell what happened to a memory, oldest first.

    That of a memory that is gone is for keys that are bound to nobody: whose it was is not known any more.
    """
    if call.is_bound:
        await call.owned(call.name)
    return await call.memory.history(call.name)


async def count(call: Call, asked: CountMemories) -> Counts:
    """Count memories."""
    return await call.memory.count(**call.within(asked))


async def scopes(call: Call, asked: ListScopes) -> list[ScopeCounts]:
    """Tell whose memories there are, by user, agent and run.

    The `scope` of the last one, as JSON in `after`, fetches those behind it.
    """
    return await call.memory.scopes(**call.within(asked))


def _noted(call: Call, added: AddResult) -> AddResult:
    """Note for the audit line what was stored."""
    call.audit.ids += [turn.id for turn in added.turns]
    return added


_MEMORY: Any = Turn | Fact
ROUTES = (
    Route("POST", "/memories", add, AddMemories, AddResult, 201, AddMemories(messages=_TEA, user_id="alice")),
    Route(
        "POST",
        "/memories/batch",
        add_many,
        AddMany,
        list[AddResult],
        201,
        AddMany(additions=[AddMemories(messages=_TEA, user_id="alice", key="line-1")]),
    ),
    Route("GET", "/memories", list_, ListMemories, Page, example=ListMemories(user_id="alice", limit=20)),
    Route("DELETE", "/memories", delete_all, DeleteMemories, Deleted),
    Route("GET", "/memories/{id:str}", get, returns=_MEMORY),
    Route("PATCH", "/memories/{id:str}", update, ChangeMemory, _MEMORY, example=ChangeMemory(text="I like black tea")),
    Route("DELETE", "/memories/{id:str}", delete),
    Route("GET", "/memories/{id:str}/history", history, returns=list[Event]),
    Route("GET", "/counts", count, CountMemories, Counts),
    Route("GET", "/scopes", scopes, ListScopes, list[ScopeCounts]),
)
