"""The write path: turns are embedded together and stored in one transaction, each once."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.errors import ConfigError, StoreError
from ollama_async_mem.memory.recent import Recent
from ollama_async_mem.memory.tasks import to_the_end
from ollama_async_mem.records import AddResult, Turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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

    async def take(
        self, turns: Sequence[Turn], *, extract: bool, key: str | None = None, prompt: str | None = None
    ) -> AddResult:
        """Store turns of one scope; when this returns they are durable. With `extract` a job is queued for new ones.

        Raises:
            OllamaError: they could not be embedded; nothing was stored.
            StoreError: they could not be stored; none is.
        """
        if key is not None:
            return await self._take_once(turns, key, extract=extract, prompt=prompt)
        entries = self.recent.enter(turns, (extract, prompt))
        pairs = list(zip(entries, turns, strict=True))
        new = [turn for entry, turn in pairs if entry.id == turn.id]
        with self._settling([entry for entry, turn in pairs if entry.id == turn.id]):
            job_id = await self._put(new, extract=extract, prompt=prompt)
        stored = [turn if entry.id == turn.id else await self._earlier(entry, turn) for entry, turn in pairs]
        missing = [turn for turn, there in zip(turns, stored, strict=True) if there is None]
        if not missing:
            return _result([turn for turn in stored if turn], job_id, is_new=bool(new))
        again = await self.take(missing, extract=extract, prompt=prompt)
        late = iter(again.turns)
        return _result(
            [turn or next(late) for turn in stored], job_id or again.job_id, is_new=bool(new) or again.is_new
        )

    @contextmanager
    def _settling(self, own: list[Entry]) -> Iterator[None]:
        """Tell those who wait for the same turns how it went; who is cancelled may have stored them nevertheless."""
        failed = False
        try:
            yield
        except Exception:
            failed = True
            raise
        finally:
            self.recent.settle(own, failed=failed)

    async def _earlier(self, entry: Entry, turn: Turn) -> Turn | None:
        """The stored turn that says the same, or None where it was not stored, or is not there as it was any more."""
        await entry.done.wait()
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
        ids = [keyed_id(turns[0].scope, key, position) for position in range(len(turns))]
        if there := await self._there(ids):
            return _result(there, None, is_new=False)
        named = [msgspec.structs.replace(turn, id=id_) for turn, id_ in zip(turns, ids, strict=True)]
        try:
            job_id = await self._put(named, extract=extract, prompt=prompt)
        except StoreError:
            if there := await self._there(ids):  # another caller with the key was faster
                return _result(there, None, is_new=False)
            raise
        return _result(named, job_id, is_new=True)

    async def _there(self, ids: Sequence[str]) -> list[Turn]:
        return [turn for turn in await self._store.get_many(ids) if isinstance(turn, Turn)]

    async def _put(self, turns: Sequence[Turn], *, extract: bool, prompt: str | None) -> str | None:
        if not turns:
            return None
        vectors = await self._embedder.embed_documents([embedded_text(turn) for turn in turns])
        model = self._embedder.model
        return await to_the_end(self._store.add_turns(turns, vectors, model=model, extract=extract, prompt=prompt))


def embedded_text(turn: Turn) -> str:
    """What the vector of a turn is made of."""
    return f"{turn.who}: {turn.text}"


def keyed_id(scope: Scope, key: str, position: int) -> str:
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
