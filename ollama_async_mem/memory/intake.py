"""The write path: turns are embedded together and stored in one transaction, each once."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.errors import ConfigError, StoreError
from ollama_async_mem.memory.recent import Recent
from ollama_async_mem.records import AddResult, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from ollama_async_mem.memory.recent import Entry
    from ollama_async_mem.ports import Embedder, MemoryStore
    from ollama_async_mem.records import Scope

__all__ = ["Intake", "embedded_text", "keyed_id"]

_MOST_KEYED = 1 << 24


class Intake:
    """Takes turns into a store. What says the same as a turn of the last `window` is that turn, and not stored again.

    The window is seen by this process only; a `key` of the caller's holds for ever and for all processes.
    """

    def __init__(self, store: MemoryStore, embedder: Embedder, *, window: timedelta) -> None:
        self.recent = Recent(window)
        self._store = store
        self._embedder = embedder
        self._writing: set[asyncio.Future[str | None]] = set()

    async def take(
        self, turns: Sequence[Turn], *, extract: bool, key: str | None = None, prompt: str | None = None
    ) -> AddResult:
        """Store turns of one scope; when this returns they are durable. With `extract` a job is queued for new ones.

        Who is cancelled while the store writes leaves at once, and what was begun goes on: see `settled`.

        Raises:
            OllamaError: they could not be embedded; nothing was stored.
            StoreError: they could not be stored; none is.
        """
        if key is not None:
            return await self._take_once(turns, key, extract=extract, prompt=prompt)
        entries = self.recent.enter(turns, (extract, prompt))
        pairs = list(zip(entries, turns, strict=True))
        new = [turn for entry, turn in pairs if entry.id == turn.id]
        own = [entry for entry, turn in pairs if entry.id == turn.id]
        job_id = await self._put(new, own, extract=extract, prompt=prompt)
        stored = [turn if entry.id == turn.id else await self._earlier(entry, turn) for entry, turn in pairs]
        missing = [turn for turn, there in zip(turns, stored, strict=True) if there is None]
        if not missing:
            return _result([turn for turn in stored if turn], job_id, is_new=bool(new))
        again = await self.take(missing, extract=extract, prompt=prompt)
        late = iter(again.turns)
        return _result(
            [turn or next(late) for turn in stored], job_id or again.job_id, is_new=bool(new) or again.is_new
        )

    async def taken(self, scope: Scope, key: str, count: int) -> AddResult | None:
        """What was stored under a key, None where of as many messages nothing is.

        Raises:
            ConfigError: there are too many messages.
        """
        there = await self._there([keyed_id(scope, key, position) for position in range(count)])
        return _result(there, None, is_new=False) if there else None

    async def settled(self) -> None:
        """Wait for what the store is still writing, also for those who left."""
        if self._writing:
            await asyncio.wait(self._writing)

    async def _earlier(self, entry: Entry, turn: Turn) -> Turn | None:
        """The stored turn that says the same, or None where it was not stored, or is not there as it was any more."""
        await entry.settled()
        there = [] if entry.failed else await self._there([entry.id])
        if (
            there
            and there[0].text == turn.text
            and (there[0].expires_at is None or there[0].expires_at > turn.created_at)
        ):
            return there[0]
        self.recent.forget([entry.id])
        return None

    async def _take_once(self, turns: Sequence[Turn], key: str, *, extract: bool, prompt: str | None) -> AddResult:
        """Store turns under ids that follow from the key, unless they are there."""
        scope = turns[0].scope
        named = [
            msgspec.structs.replace(turn, id=keyed_id(scope, key, position)) for position, turn in enumerate(turns)
        ]
        try:
            job_id = await self._put(named, extract=extract, prompt=prompt)
        except StoreError:
            if there := await self.taken(scope, key, len(turns)):  # another caller with the key was faster
                return there
            raise
        return _result(named, job_id, is_new=True)

    async def _there(self, ids: Sequence[str]) -> list[Turn]:
        return [turn for turn in await self._store.get_many(ids) if isinstance(turn, Turn)]

    async def _put(
        self, turns: Sequence[Turn], entries: Sequence[Entry] = (), *, extract: bool, prompt: str | None
    ) -> str | None:
        """Embed and store turns, and tell those who wait for their entries how it went, whoever is cancelled."""
        if not turns:
            return None
        try:
            vectors = await self._embedder.embed_documents([embedded_text(turn) for turn in turns])
        except BaseException:
            self.recent.settle(entries, failed=True)
            raise
        model = self._embedder.model
        writing = asyncio.ensure_future(
            self._store.add_turns(turns, vectors, model=model, extract=extract, prompt=prompt)
        )
        self._writing.add(writing)
        writing.add_done_callback(partial(self._written, entries))
        await asyncio.wait([writing])
        return writing.result()

    def _written(self, entries: Sequence[Entry], writing: asyncio.Future[str | None]) -> None:
        self._writing.discard(writing)
        self.recent.settle(entries, failed=writing.cancelled() or writing.exception() is not None)


def embedded_text(turn: Turn) -> str:
    """What the vector of a turn is made of."""
    return f"{turn.who}: {turn.text}"


def keyed_id(scope: Scope, key: str | tuple[str, str], position: int) -> str:
    """The id of a message that is added under a key: a UUID of version 8 (RFC 9562, section 5.8).

    It is a hash of scope and key, and ends in the position, so that ids of one add sort in its order.

    Raises:
        ConfigError: there are too many messages.
    """
    if position >= _MOST_KEYED:
        raise ConfigError(f"one add with a key takes at most {_MOST_KEYED} messages")
    digest = sha256(msgspec.json.encode((scope, key))).digest()
    head = int.from_bytes(digest[:13], "big") << 24 | position
    return str(uuid.UUID(int=head & ~(0xF << 76 | 0x3 << 62) | 8 << 76 | 2 << 62))


def _result(turns: Sequence[Turn], job_id: str | None, *, is_new: bool) -> AddResult:
    return AddResult(tuple(turns), job_id, "queued" if job_id else "none", is_new=is_new)
