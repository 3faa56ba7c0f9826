"""Events for whoever listens. Does no I/O, and keeps nothing for those who come later."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import anyio

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.events import EventsLost

if TYPE_CHECKING:
    from ollama_async_mem.events import MemoryEvent

__all__ = ["EventStream", "Feed"]


class Feed:
    """Hands each event to all who listen at that moment. Whoever is too slow loses the oldest, and is told."""

    def __init__(self) -> None:
        self._streams: set[EventStream] = set()
        self._is_ended = False

    def publish(self, event: MemoryEvent) -> None:
        """Hand an event to all streams; it never waits."""
        for stream in self._streams:
            stream.put(event)

    def listen(self, buffer: int) -> EventStream:
        """Return a stream that gets what happens while its context lasts, and holds up to `buffer` events."""
        return EventStream(self, buffer)

    def attach(self, stream: EventStream) -> None:
        """Hand events to a stream from now on; where there will be none any more, it ends."""
        self._streams.add(stream)
        if self._is_ended:
            stream.end()

    def detach(self, stream: EventStream) -> None:
        """Hand no more events to a stream, and end it."""
        self._streams.discard(stream)
        stream.end()

    def end(self) -> None:
        """End all streams, once they have given what they hold."""
        self._is_ended = True
        for stream in self._streams:
            stream.end()


class EventStream:
    """What happens in a memory: `async with mem.events() as events`, then `async for event in events`.

    It has one reader, and ends when the memory is closed. An `EventsLost` stands where events had to be dropped.
    """

    def __init__(self, feed: Feed, buffer: int) -> None:
        self._feed = feed
        self._held: deque[MemoryEvent] = deque(maxlen=buffer)
        self._lost = 0
        self._news = anyio.Event()
        self._entered = False
        self._reading = False
        self._ended = False

    async def __aenter__(self) -> Self:
        self._entered = True
        self._feed.attach(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._feed.detach(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MemoryEvent:
        if not self._entered:
            raise ConfigError("events come inside 'async with mem.events() as events', not before it")
        if self._reading:
            raise ConfigError("one task reads a stream of events: let each listener have its own, by mem.events()")
        await self._wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(lost)
        return self._held.popleft()

    async def _wait(self) -> None:
        self._reading = True
        try:
            while not self._held:
                if self._ended:
                    raise StopAsyncIteration
                self._news = anyio.Event()
                await self._news.wait()
        finally:
            self._reading = False

    def put(self, event: MemoryEvent) -> None:
        """Hold an event until it is asked for."""
        self._lost += len(self._held) == self._held.maxlen
        self._held.append(event)
        self._news.set()

    def end(self) -> None:
        """Give what is held, and then nothing more."""
        self._ended = True
        self._news.set()
