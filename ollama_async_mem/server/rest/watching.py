"""What happens in the memory, as it happens, and whether the server works: events, health and figures."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from ollama_async_mem.errors import OllamaAsyncMemError, StoreError
from ollama_async_mem.events import EventsLost, FactAdded, MemoryEvent, MemoryUpdated, TurnStored
from ollama_async_mem.memory.tasks import together
from ollama_async_mem.records import Scope
from ollama_async_mem.server.rest.metrics import EXPOSITION
from ollama_async_mem.server.rest.routing import NDJSON, SSE, Answer, Route, answer_of
from ollama_async_mem.server.rest.shapes import Health, Readiness, WatchEvents
from ollama_async_mem.server.rest.streams import Streamed

if TYPE_CHECKING:
    from ollama_async_mem.counts import MemoryStatistics
    from ollama_async_mem.memory.feed import EventStream
    from ollama_async_mem.server.rest.routing import Call
    from ollama_async_mem.server.rest.streams import Emit

__all__ = ["HEALTH_ROUTES", "ROUTES"]

HEARTBEAT_S = 15.0
"""Between signs of life: proxies and browsers give up a connection that says nothing, often after a minute."""
_PROBE_S = 2.0
_SCRAPE_S = 5.0  # Prometheus itself waits for ten


async def events(call: Call, asked: WatchEvents) -> Streamed:
    """Watch what happens, as server-sent events, or as lines of JSON where the Accept header says so.

    Without any id, all that the key may see. Whoever reads too slowly is told by `events_lost` how many are missing. A
    sign of life comes every 15 seconds. The stream ends when the server does.
    """
    wanted = call.principal.scope(asked.user_id, asked.agent_id, asked.run_id)

    async def work(emit: Emit) -> None:
        async with anyio.create_task_group() as tasks, call.memory.events() as stream:
            tasks.start_soon(_end_with, call.server.stopping, tasks.cancel_scope)
            await emit(None)  # so that the client knows that it is heard
            with suppress(StopAsyncIteration):
                while True:
                    event = await _next(stream)
                    if event is None or _is_in(event, wanted):
                        await emit(event)
            tasks.cancel_scope.cancel()

    return Streamed(work, as_events=not call.accepts(NDJSON))


async def _end_with(stopping: anyio.Event, watching: anyio.CancelScope) -> None:
    await stopping.wait()
    watching.cancel()


async def _next(stream: EventStream) -> MemoryEvent | None:
    """The next event, or None when there was none for a while."""
    with anyio.move_on_after(HEARTBEAT_S):
        return await anext(stream)
    return None


def _is_in(event: MemoryEvent, wanted: Scope) -> bool:
    """Whether an event is about memories of a scope, or says that events are missing."""
    if isinstance(event, EventsLost):
        return True
    if isinstance(event, TurnStored):
        scope = event.turn.scope
    elif isinstance(event, FactAdded):
        scope = event.fact.scope
    else:
        scope = event.memory.scope if isinstance(event, MemoryUpdated) else event.scope
    return all(getattr(wanted, name) in {None, getattr(scope, name)} for name in Scope.__struct_fields__)


async def health(_call: Call) -> Health:
    """Say that the process lives; it asks nothing else."""
    return Health("ok")


async def ready(call: Call) -> Answer:
    """Tell whether the store can be read and the Ollama server answers, within two seconds; 503 where one does not.

    That the store cannot be written, as it is locked or its disk is full, shows in `/metrics`: as answers with 503.
    """
    works = {"store": False, "ollama": False}

    async def store() -> None:
        with anyio.move_on_after(_PROBE_S):
            works["store"] = await _works(call)

    async def ollama() -> None:
        works["ollama"] = await call.memory.client.is_alive()

    await together(store, ollama)
    return answer_of(Readiness(**works), status=200 if all(works.values()) else 503)


async def _works(call: Call) -> bool:
    try:
        await call.memory.store.pending_jobs()
    except OllamaAsyncMemError:
        return False
    return True


async def metrics(call: Call) -> Answer:
    """Give the figures for Prometheus: requests, streams, memories, extraction and the process.

    For keys that are bound to nobody. They come without those of the store where it does not answer within five
    seconds.
    """
    call.require_all()
    figures = await call.server.figures.exposed(await _statistics(call))
    return Answer(200, figures, [(b"content-type", EXPOSITION)])


async def _statistics(call: Call) -> MemoryStatistics | None:
    with anyio.move_on_after(_SCRAPE_S), suppress(StoreError):
        return await call.memory.statistics()
    return None


ROUTES = (Route("GET", "/events", events, WatchEvents, MemoryEvent, streams=(SSE, NDJSON)),)
HEALTH_ROUTES = (
    Route("GET", "/healthz", health, returns=Health),
    Route("GET", "/readyz", ready, returns=Readiness, also=(503,)),
    Route("GET", "/metrics", metrics, returns=str, streams=(b"text/plain",)),
)
