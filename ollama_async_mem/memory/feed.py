"""Events for whoever listens. Does no I/O, and keeps nothing for those who come later."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import anyio

from ollama_async_mem.events import EventsLost

if TYPE_CHECKING:
    from ollama_async_mem.events import MemoryEvent

__all__ = ["EventStream", "Feed"]


class Feed:
    """Hands each event to all who listen at that moment. Whoever is too slow loses the oldest, and is told."""

    def __init__(self) -> None:
        self._streams: set[EventStream] = set()

    def publish(self, event: MemoryEvent) -> None:
        """Hand an event to all streams; it never waits."""
        for stream in self._streams:
            stream.put(event)

    def listen(self, buffer: int) -> EventStream:
        """Return a stream that gets what happens while its context lasts, and holds up to `buffer` events."""
        return EventStream(self._streams, buffer)

    def end(self) -> None:
        """End all streams, once they have given what they hold."""
        for stream in self._streams:
            stream.end()


class EventStream:
    """What happens in a memory: `async with mem.events() as events`, then `async for event in events`.

    It ends when the memory is closed. An `EventsLost` stands where events had to be dropped.
    """

    def __init__(self, streams: set[EventStream], buffer: int) -> None:
        self._streams = streams
        self._held: deque[MemoryEvent] = deque(maxlen=buffer)
        self._lost = 0
        self._news = anyio.Event()
        self._ended = False

    async def __aenter__(self) -> Self:
        self._streams.add(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._streams.discard(self)
        self.end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MemoryEvent:
        while not self._held:
            if self._ended:
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(lost)
        return self._held.popleft()

    def put(self, event: MemoryEvent) -> None:
        """Hold an event until it is asked for."""
        self._lost += len(self._held) == self._held.maxlen
        self._held.append(event)
        self._news.set()

    def end(self) -> None:
        """Give what is held, and then nothing more."""
        self._ended = True
        self._news.set()
