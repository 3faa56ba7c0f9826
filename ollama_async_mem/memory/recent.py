"""What was added lately, so that the same message again is not stored twice. Does no I/O and holds no texts."""

from __future__ import annotations

import time
from collections import OrderedDict
from datetime import datetime  # noqa: TC003 - msgspec resolves annotations at run time
from hashlib import blake2b
from typing import TYPE_CHECKING

import anyio
import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from ollama_async_mem.records import Turn

__all__ = ["Entry", "Recent"]

_MOST = 10_000


class Entry(msgspec.Struct, eq=False, gc=False):
    """A turn that is stored or about to be. `done`, of all that are added together, is None once it is known which."""

    id: str
    at: datetime
    entered_s: float
    done: anyio.Event | None
    failed: bool = False

    async def settled(self) -> None:
        """Wait until it is known."""
        if self.done is not None:
            await self.done.wait()


class Recent:
    """The latest turns by what they say: the same in every respect, in the same scope, within a window of time."""

    def __init__(self, window: timedelta) -> None:
        self._window = window
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()  # the oldest is first

    def enter(self, turns: Sequence[Turn], how: object) -> list[Entry]:
        """Return an entry for each turn: that of an earlier turn which says the same, else a new one for this turn.

        Turns that are given together are not compared with each other. `how` is what else makes two adds differ.
        """
        self._drop_old()
        keys = [_key(turn, how) for turn in turns]
        earlier = [self._earlier(key, turn) for key, turn in zip(keys, turns, strict=True)]
        done = anyio.Event()
        now = time.monotonic()
        entries = [old or Entry(turn.id, turn.at, now, done) for old, turn in zip(earlier, turns, strict=True)]
        for key, old, entry in zip(keys, earlier, entries, strict=True):
            if old is None:
                self._entries.pop(key, None)
                self._entries[key] = entry
        return entries

    def settle(self, entries: Iterable[Entry], *, failed: bool) -> None:
        """Say that turns are stored, or are not and will not be."""
        for entry in entries:
            entry.failed = failed
            if entry.done is not None:
                entry.done.set()
                entry.done = None  # thousands of entries are kept, and an event is larger than one
        if failed:
            self.forget(entry.id for entry in entries)

    def forget(self, ids: Iterable[str] | None = None) -> None:
        """Forget turns by id, or all."""
        gone = None if ids is None else set(ids)
        for key in [key for key, entry in self._entries.items() if gone is None or entry.id in gone]:
            del self._entries[key]

    def _earlier(self, key: bytes, turn: Turn) -> Entry | None:
        entry = self._entries.get(key)
        return entry if entry and abs(entry.at - turn.at) <= self._window else None

    def _drop_old(self) -> None:
        end = time.monotonic() - self._window.total_seconds()
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.entered_s >= end and len(self._entries) <= _MOST:
                return
            del self._entries[key]


def _key(turn: Turn, how: object) -> bytes:
    said = (turn.scope, turn.role, turn.speaker, turn.text, turn.metadata, turn.expires_at, how)
    return blake2b(msgspec.json.encode(said, enc_hook=repr, order="sorted"), digest_size=16).digest()
