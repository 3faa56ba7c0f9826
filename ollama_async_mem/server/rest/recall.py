"""Finding, and answering with what was found: search, context and chat. Each route is one call of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_async_mem.records import SearchResult
from ollama_async_mem.server.rest.routing import NDJSON, SSE, Route
from ollama_async_mem.server.rest.shapes import (
    AskContext,
    BriefContext,
    Chat,
    ChatEvent,
    Context,
    Done,
    Recalled,
    Search,
    Token,
)
from ollama_async_mem.server.rest.streams import Streamed

if TYPE_CHECKING:
    from ollama_async_mem.memory.chat import MemoryChat
    from ollama_async_mem.server.rest.routing import Call
    from ollama_async_mem.server.rest.streams import Emit

__all__ = ["ROUTES"]


async def search(call: Call, asked: Search) -> SearchResult:
    """Find the memories that fit a query, best first, each with a score from 0 to 1.

    `degraded` names the indexes that could not be asked.
    """
    return await call.memory.search(**call.within(asked))


async def context(call: Call, asked: BriefContext) -> Context:
    """Write down what fits a query as dated lines for a prompt, oldest first."""
    return Context(await call.memory.context(**call.within(asked)))


async def chat(call: Call, asked: Chat) -> Streamed:
    """Answer with what is remembered, and remember the exchange.

    The events are: `recalled` with the lines that the model was given, a `token` for each piece of the answer, and
    `done` with the ids of what was remembered, or `error`. Only a complete answer is remembered: to stop the model,
    close the connection. They are lines of JSON, or server-sent events where the Accept header says so.
    """
    call.audit.changes = asked.remember
    if asked.remember:
        call.principal.require_write()
    arguments = call.within(asked)
    explain = arguments.pop("explain")
    answering = call.memory.chat(**arguments)

    async def work(emit: Emit) -> None:
        async with answering as stream:
            await emit(Recalled(stream.memories, stream.hits if explain else ()))
            async for text in stream.text():
                await emit(Token(text))
        await emit(_done(stream))

    return Streamed(work, as_events=call.accepts(SSE))


def _done(stream: MemoryChat) -> Done:
    if stream.added:
        return Done(tuple(turn.id for turn in stream.added.turns), stream.added.job_id)
    return Done(error="the exchange was not stored: the log of the server says why" if stream.error else None)


_SEARCH = Search(query="which snacks can she eat?", user_id="alice", limit=5)
_DINNER = "plan dinner"
ROUTES = (
    Route("POST", "/search", search, Search, SearchResult, example=_SEARCH, reads=True),
    Route("GET", "/search", search, Search, SearchResult, example=_SEARCH),
    Route(
        "POST",
        "/context",
        context,
        AskContext,
        Context,
        example=AskContext(query=_DINNER, user_id="alice"),
        reads=True,
    ),
    Route("GET", "/context", context, BriefContext, Context, example=BriefContext(query=_DINNER, user_id="alice")),
    Route(
        "POST",
        "/chat",
        chat,
        Chat,
        ChatEvent,
        example=Chat(messages="Suggest a snack", user_id="alice"),
        streams=(NDJSON, SSE),
    ),
)
