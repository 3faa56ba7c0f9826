"""The models of the Ollama server: what is there, pulled, loaded and deleted. Each route is one call of the client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ollama_async_mem.ollama.models import summed
from ollama_async_mem.ollama.schema import ModelInfo, RunningModel, ShowResponse
from ollama_async_mem.server.rest.routing import NDJSON, SSE, Route
from ollama_async_mem.server.rest.shapes import ModelName, Progress, Pulled, PullEvent
from ollama_async_mem.server.rest.streams import Streamed

if TYPE_CHECKING:
    from ollama_async_mem.ollama.models import Layer
    from ollama_async_mem.server.rest.routing import Call
    from ollama_async_mem.server.rest.streams import Emit

__all__ = ["ROUTES"]


async def installed(call: Call) -> list[ModelInfo]:
    """List the installed models, newest first."""
    return await call.memory.client.models.installed()


async def running(call: Call) -> list[RunningModel]:
    """List the loaded models, with what they take of the GPU's memory and when they are unloaded."""
    return await call.memory.client.models.running()


async def show(call: Call) -> ShowResponse:
    """Describe a model."""
    return await call.memory.client.show(call.name)


async def pull(call: Call, asked: ModelName) -> Streamed:
    """Pull a model, and tell how far it is; needs an admin key.

    The events are `progress` again and again, and `done`, or `error`. They are lines of JSON, or server-sent events
    where the Accept header says so. When the connection is closed the pull stops; the next one goes on from there.
    """
    call.principal.require_admin()

    async def work(emit: Emit) -> None:
        layers: dict[str, Layer] = {}
        began = time.monotonic()
        async with call.memory.client.stream_pull(asked.model) as progress:
            async for step in progress:
                await emit(Progress(summed(asked.model, step, layers, time.monotonic() - began)))
        await emit(Pulled(asked.model))

    return Streamed(work, as_events=call.accepts(SSE))


async def load(call: Call, asked: ModelName) -> None:
    """Load a model, so that its first answer does not wait for that; needs an admin key."""
    call.principal.require_admin()
    await call.memory.client.models.load(asked.model)


async def unload(call: Call, asked: ModelName) -> None:
    """Unload a model once nobody uses it; needs an admin key."""
    call.principal.require_admin()
    await call.memory.client.models.unload(asked.model)


async def delete(call: Call) -> None:
    """Delete a model; needs an admin key."""
    call.principal.require_admin()
    await call.memory.client.delete(call.name)


_LLAMA = ModelName(model="llama3.2")
ROUTES = (
    Route("GET", "/models", installed, returns=list[ModelInfo]),
    Route("GET", "/models/running", running, returns=list[RunningModel]),
    Route("POST", "/models/pull", pull, ModelName, PullEvent, example=_LLAMA, streams=(NDJSON, SSE)),
    Route("POST", "/models/load", load, ModelName, example=_LLAMA),
    Route("POST", "/models/unload", unload, ModelName, example=_LLAMA),
    Route("GET", "/models/show/{name:path}", show, returns=ShowResponse),
    Route("DELETE", "/models/{name:path}", delete),
)
