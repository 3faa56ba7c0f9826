"""Who asks for vectors at the same time shares requests: queues, requests in flight, and who waits for what.

It knows texts and what came of them, nothing of models, prefixes or HTTP: `send` does a request.
"""

from __future__ import annotations

import copy
import re
from collections import deque
from typing import TYPE_CHECKING, NoReturn, Self, TypeAlias, Union

import anyio
import msgspec

from ollama_async_mem.errors import ConfigError, OllamaAsyncMemError, OllamaError, StatusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from contextlib import AsyncExitStack

    from ollama_async_mem.embedding.cache import VectorCache
    from ollama_async_mem.ports import Vector

__all__ = ["BadText", "Batcher", "Outcome"]

_PATIENCE = 3  # requests with queries that documents let pass before one of theirs goes first
_PROBE = "probe"
_OF_A_TEXT = {400, 413, 422}
# Words for a text that is too long: of Ollama and of llama.cpp, whose limit is one batch.
_TOO_LONG = re.compile(r"(?i)exceeds? .*context|context (length|size)|too (large|long)")
_NOT_A_NUMBER = re.compile(r"\bNaN\b|\bInf\b")


class BadText(msgspec.Struct, frozen=True):
    """The server has no vector for this text, whatever else it is asked for."""

    reason: str
    is_too_long: bool = False
    cause: BaseException | None = None


Outcome: TypeAlias = Union["Vector", BadText, Exception]
_PENDING = BadText("nobody has asked yet")


class _Call:
    """One caller: what it still has to ask, what it asked, how much of that has no outcome yet, and how it ended."""

    __slots__ = ("done", "failure", "is_urgent", "missing", "places", "rest")

    def __init__(self, texts: Iterable[str], *, is_urgent: bool) -> None:
        self.rest = iter(texts)
        self.is_urgent = is_urgent
        self.places: list[Vector | _Item] = []
        self.missing = 0
        self.done = anyio.Event()
        self.failure: Exception | None = None


class _Item:
    """One text, who waits for it, and the request it is in."""

    __slots__ = ("calls", "flight", "outcome", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.calls: list[_Call] = []
        self.flight: _Flight | None = None
        self.outcome: Vector | BadText = _PENDING


class _Flight:
    """A request, with what follows it where a text is bad."""

    __slots__ = ("items", "scope")

    def __init__(self) -> None:
        self.items: list[_Item] = []
        self.scope = anyio.CancelScope()


class Batcher:
    """Turns texts into outcomes with few requests, once it is `open`.

    A text is asked for at once while fewer than `in_flight` requests are under way; what comes meanwhile is gathered,
    up to `batch` texts, urgent ones first, and a long list takes turns with other calls. What is asked for already, or
    cached, is not asked for again. A request for which nobody waits any more is cancelled.
    """

    def __init__(
        self,
        send: Callable[[list[str]], Awaitable[Sequence[Outcome]]],
        cache: VectorCache,
        *,
        batch: int,
        in_flight: int,
    ) -> None:
        self._send = send
        self._cache = cache
        self._batch = batch
        self._in_flight = in_flight
        self._window = batch * (in_flight + 1)  # of a call: what is under way and the next request
        self._queues: tuple[deque[_Item], deque[_Item]] = (deque(), deque())  # documents, queries
        self._pending: dict[str, _Item] = {}
        self._idle: list[anyio.Event] = []
        self._passed = 0
        self._is_open = False
        self._is_proven = False  # whether the server has ever answered: then a refusal is about the texts
        self.shared = 0

    async def open(self, stack: AsyncExitStack) -> Self:
        """Start to work until the stack is left; whoever still waits then is told.

        A cancel scope around all this does not end the work: until the stack is left, somebody who is shielded may ask.
        """
        tasks = await stack.enter_async_context(anyio.create_task_group())
        life = anyio.CancelScope(shield=True)
        stack.callback(life.cancel)
        self._is_open = True
        tasks.start_soon(self._serve, life)
        return self

    async def ask(self, texts: Iterable[str], *, urgent: bool) -> list[Vector | BadText]:
        """Return what came of each text, in order.

        Raises:
            ConfigError: it is not open.
            OllamaAsyncMemError: what `send` raised, where that concerns more than one text.
        """
        self.check_open()
        call = _Call(texts, is_urgent=urgent)
        self._feed(call)
        if call.missing:
            self._wake()
            try:
                await call.done.wait()
            finally:
                if call.missing:
                    self._leave(call)
        if call.failure:
            _raise(call.failure)
        return [place.outcome if isinstance(place, _Item) else place for place in call.places]

    def check_open(self) -> None:
        """Refuse to work outside `async with`.

        Raises:
            ConfigError: as said.
        """
        if not self._is_open:
            raise ConfigError("an OllamaEmbedder works inside 'async with'")

    def _feed(self, call: _Call) -> None:
        """Queue texts of a call, but never all of a long list: others would have to wait behind it."""
        while call.missing < self._window and (text := next(call.rest, None)) is not None:
            call.places.append(self._place(text, call))

    def _place(self, text: str, call: _Call) -> Vector | _Item:
        if (vector := self._cache.get(text)) is not None:
            return vector
        item = self._pending.get(text)
        if item is None:
            item = self._pending[text] = _Item(text)
            self._queues[call.is_urgent].append(item)
        else:
            self.shared += 1
            if call.is_urgent and item.flight is None:  # a document's place in the queue is too far behind
                self._queues[call.is_urgent].append(item)
        item.calls.append(call)
        call.missing += 1
        return item

    def _wake(self) -> None:
        if self._idle:
            self._idle.pop().set()

    def _leave(self, call: _Call) -> None:
        """Forget a caller that was cancelled or failed, and what only it asked for."""
        for item in call.places:
            if not isinstance(item, _Item) or item.outcome is not _PENDING:
                continue
            item.calls.remove(call)
            if item.calls:
                continue
            if item.flight is None:
                self._forget(item)
            elif not any(other.calls for other in item.flight.items):
                item.flight.scope.cancel()
                for other in item.flight.items:
                    self._forget(other)

    def _forget(self, item: _Item) -> None:
        if self._pending.get(item.text) is item:
            del self._pending[item.text]

    async def _serve(self, life: anyio.CancelScope) -> None:
        try:
            with life:
                async with anyio.create_task_group() as workers:
                    for _ in range(self._in_flight):
                        workers.start_soon(self._work)
        finally:
            self._close()

    async def _work(self) -> None:
        while True:
            if not any(self._queues):
                event = anyio.Event()
                self._idle.append(event)
                await event.wait()
            flight = self._take()
            if any(self._queues):
                self._wake()
            if flight.items:
                with flight.scope:
                    await self._settle(flight.items)
                flight.items = []  # no circle is left for the garbage collector

    def _take(self) -> _Flight:
        """Take the texts of the next request out of one queue; a mixed one would make queries wait for documents."""
        flight = _Flight()
        while any(self._queues) and not flight.items:
            documents, queries = self._queues
            is_their_turn = not queries or (bool(documents) and self._passed >= _PATIENCE)
            self._passed = 0 if is_their_turn else self._passed + bool(documents)
            queue = documents if is_their_turn else queries
            while queue and len(flight.items) < self._batch:
                item = queue.popleft()
                if item.calls and item.flight is None:
                    item.flight = flight
                    flight.items.append(item)
        return flight

    async def _settle(self, items: list[_Item]) -> None:
        """Ask for texts; where one of them is refused, by halves until it alone is left."""
        try:
            outcomes = await self._send([item.text for item in items])
        except Exception as exc:  # noqa: BLE001 - it is raised where the texts came from
            await self._refused(items, exc)
            return
        self._is_proven = True
        for item, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._fail([item], outcome)
            else:
                self._finish(item, outcome)

    async def _refused(self, items: list[_Item], exc: Exception) -> None:
        if not (isinstance(exc, StatusError) and _is_of_a_text(exc)) or await self._is_of_all():
            self._fail(items, exc)
        elif len(items) == 1:
            self._finish(items[0], BadText(exc.message, is_too_long=bool(_TOO_LONG.search(exc.message)), cause=exc))
        else:
            items = sorted(items, key=_length)  # a text is most often refused for being too long
            middle = len(items) // 2
            await self._settle(items[:middle])
            await self._settle(items[middle:])

    async def _is_of_all(self) -> bool:
        """Whether the server refuses any text, as for a model that cannot embed."""
        if not self._is_proven:
            try:
                await self._send([_PROBE])
            except OllamaAsyncMemError:
                return True
        return False

    def _finish(self, item: _Item, outcome: Vector | BadText) -> None:
        self._forget(item)
        item.outcome = outcome
        if not isinstance(outcome, BadText):
            self._cache.put(item.text, outcome)
        calls, item.calls = item.calls, []
        for call in calls:
            call.missing -= 1
            self._feed(call)
            if not call.missing:
                call.done.set()

    def _fail(self, items: Iterable[_Item], failure: Exception) -> None:
        """End the calls that wait for these texts: what they have left would fail as well."""
        for item in items:
            self._forget(item)
            for call in item.calls:
                call.failure = failure
                call.done.set()

    def _close(self) -> None:
        self._is_open = False
        self._idle.clear()
        for queue in self._queues:
            queue.clear()
        self._fail(tuple(self._pending.values()), OllamaError("the embedder was closed while it was asked"))


def _raise(failure: Exception) -> NoReturn:
    """Raise what others may raise too: each with a traceback of its own."""
    if isinstance(failure, OllamaAsyncMemError):
        raise copy.copy(failure) from failure.__cause__
    raise failure


def _length(item: _Item) -> int:
    return len(item.text)


def _is_of_a_text(exc: StatusError) -> bool:
    """Whether a refusal may be about one text; servers before 0.12 answer 500 to a vector that is not a number."""
    if exc.retryable or type(exc) is not StatusError:
        return False
    return exc.status in _OF_A_TEXT or _NOT_A_NUMBER.search(exc.message) is not None
