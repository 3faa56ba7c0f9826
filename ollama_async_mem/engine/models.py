"""Which models are in memory, for whom, and until when.

One request at a time decides about a model (load, reload, take a slot), in the order of arrival. The number
of requests that wait is bounded. A task unloads what nobody has used for its `keep_alive`.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import msgspec

from .durations import FOREVER
from .faults import ApiError, shutting_down
from .llama import Llama
from .static import StaticEmbedder

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from .catalogue import Model

__all__ = ["DEFAULT_KEEP_ALIVE_S", "Loaded", "Models"]

DEFAULT_KEEP_ALIVE_S = 300.0
_DEFAULT_CONTEXT = 4096
_SMALLEST_CONTEXT = 4
_MOST_LOADED = 3  # as Ollama on a machine without GPU


class Loaded(msgspec.Struct):
    """A model in memory, as one request sees it."""

    model: Model
    engine: Llama | StaticEmbedder
    load_ns: int = 0


class _Place:
    """One model's place: what is loaded there and who uses it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.turn = anyio.Lock()
        self.deciding = anyio.CancelScope()  # of who has the turn
        self.engine: Llama | StaticEmbedder | None = None
        self.users = 0
        self.left = anyio.Event()
        self.keep_alive_s = DEFAULT_KEEP_ALIVE_S
        self.idle_since = time.monotonic()

    @property
    def deadline(self) -> float:
        """When to unload, on the monotonic clock."""
        return FOREVER if self.users else self.idle_since + self.keep_alive_s

    def leave(self) -> None:
        """One user less."""
        self.users -= 1
        self.idle_since = time.monotonic()
        self.left.set()
        self.left = anyio.Event()

    async def until_below(self, users: int) -> None:
        """Wait for users to leave."""
        while self.users >= users:
            await self.left.wait()


class Models:
    """The models in memory. `run` must be running in a task group for idle models to go."""

    def __init__(
        self,
        *,
        max_queue: int = 512,
        keep_alive_s: float = DEFAULT_KEEP_ALIVE_S,
        threads: int | None = None,
    ) -> None:
        self._places: dict[str, _Place] = {}
        self._max_queue = max_queue
        self._keep_alive_s = keep_alive_s
        self._threads = threads
        self._waiting = 0
        self._is_closed = False
        self._wake = anyio.Event()

    def loaded(self) -> Iterator[tuple[Model, int, float]]:
        """Model, context length and the moment (epoch seconds) of unloading, for all in memory."""
        for place in self._places.values():
            if place.engine is not None and place.engine.is_alive:
                left = place.keep_alive_s if place.users else place.deadline - time.monotonic()
                yield place.model, place.engine.n_ctx, time.time() + left

    @asynccontextmanager
    async def use(
        self, model: Model, *, num_ctx: int | None = None, keep_alive_s: float | None = None
    ) -> AsyncGenerator[Loaded]:
        """A slot of the loaded model; loads or reloads it first. Raises ApiError (503) when too many wait."""
        place = self._places.setdefault(model.name, _Place(model))
        place.model = model
        loaded = await self._enter(place, num_ctx)
        if keep_alive_s is not None:  # it holds for everybody, as in Ollama
            place.keep_alive_s = keep_alive_s
        try:
            yield loaded
        except ApiError:
            if self._is_closed:  # the runner did not fail: `close` ended it
                raise shutting_down() from None
            raise
        finally:
            place.leave()
            self._nudge()

    async def unload(self, model: Model) -> None:
        """Free a model now, or as soon as the last request that uses it is done."""
        if place := self._places.get(model.name):
            place.keep_alive_s = 0.0
            if place.users:
                self._nudge()
            else:
                await self._free_if_idle(place)

    async def run(self) -> None:
        """Unload idle models when their time has come; never returns."""
        while True:
            wake, now = self._wake, time.monotonic()
            for place in [p for p in self._places.values() if p.engine and p.deadline <= now]:
                await self._free_if_idle(place)
            delay = min((p.deadline for p in self._places.values() if p.engine), default=FOREVER)
            with anyio.move_on_after(None if delay == FOREVER else max(0.0, delay - time.monotonic())):
                await wake.wait()

    async def close(self) -> None:
        """Free everything now and load nothing more; answers that are being streamed end with an error line."""
        self._is_closed = True
        for place in list(self._places.values()):
            place.deciding.cancel()
            await self._free(place)  # without the turn: who has it may wait for those who stream
            async with place.turn:
                await self._free(place)

    async def _enter(self, place: _Place, num_ctx: int | None) -> Loaded:
        """Wait for the turn, see to it that the model is loaded as wanted, take a slot."""
        if self._waiting >= self._max_queue:
            raise ApiError(503, "server busy, please try again.  maximum pending requests exceeded")
        self._waiting += 1
        try:
            async with place.turn:
                with anyio.CancelScope() as place.deciding:
                    return await self._decide(place, num_ctx)
                raise shutting_down()
        finally:
            self._waiting -= 1

    async def _decide(self, place: _Place, num_ctx: int | None) -> Loaded:
        """Load as wanted and take a slot; the caller has the turn."""
        started = time.perf_counter_ns()
        engine = await self._ready(place, _context(place, num_ctx))
        load_ns = time.perf_counter_ns() - started
        await place.until_below(engine.slots)
        if self._is_closed:
            raise shutting_down()
        place.users += 1
        return Loaded(place.model, engine, load_ns)

    async def _ready(self, place: _Place, n_ctx: int) -> Llama | StaticEmbedder:
        """What is loaded, when it fits; else a fresh one, after those who use the old one."""
        if self._is_closed:
            raise shutting_down()
        if place.engine is not None:
            if place.engine.is_alive and place.engine.n_ctx == n_ctx:
                return place.engine
            await place.until_below(1)
            await self._free(place)
        await self._make_room()
        place.engine = await _load(place.model, n_ctx, self._threads)
        place.keep_alive_s = self._keep_alive_s
        return place.engine

    async def _make_room(self) -> None:
        """Free the model that has been idle longest when too many are loaded."""
        idle = [place for place in self._places.values() if place.engine and not place.users]
        if sum(1 for place in self._places.values() if place.engine) >= _MOST_LOADED and idle:
            await self._free(min(idle, key=lambda place: place.idle_since))

    async def _free_if_idle(self, place: _Place) -> None:
        """Unload, unless somebody came meanwhile."""
        async with place.turn:
            if place.deadline <= time.monotonic():
                await self._free(place)

    async def _free(self, place: _Place) -> None:
        engine, place.engine = place.engine, None
        if engine is not None:
            await engine.close()

    def _nudge(self) -> None:
        self._wake.set()
        self._wake = anyio.Event()


def _context(place: _Place, num_ctx: int | None) -> int:
    """The context to load with: what was asked for, else what is loaded, within what the model was made for."""
    longest = place.model.info.context_length
    if place.model.kind == "static":
        return longest
    return max(_SMALLEST_CONTEXT, min(num_ctx or _DEFAULT_CONTEXT, longest))


async def _load(model: Model, n_ctx: int, threads: int | None) -> Llama | StaticEmbedder:
    """Bring a model into memory."""
    if model.path is None:
        return await StaticEmbedder.start(n_ctx)
    is_embedding = model.kind == "embedding"
    return await Llama.start(model.path, n_ctx=n_ctx, embedding=is_embedding, threads=threads)
