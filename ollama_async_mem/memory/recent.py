"""What was added lately, so that the same message again is not stored twice. Does no I/O."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from ollama_async_mem.records import Scope, Turn

__all__ = ["Entry", "Recent"]

_MOST = 10_000
_Key: TypeAlias = "tuple[Scope, str, str | None, bytes]"


class Entry:
    """A turn that is stored or about to be; `done` is set once it is known which."""

    __slots__ = ("done", "failed", "turn")

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.done = anyio.Event()
        self.failed = False


class Recent:
    """The latest turns by what they say: the same speaker's same words in the same scope within a window of time."""

    def __init__(self, window: timedelta) -> None:
        self._window = window
        self._entries: OrderedDict[_Key, Entry] = OrderedDict()

    def enter(self, turns: Sequence[Turn]) -> list[Entry]:
        """Return an entry for each turn: that of an earlier turn which says the same, else a new one with this turn.

        Turns that are given together are not compared with each other.
        """
        earlier = [self._earlier(turn) for turn in turns]
        entries = [old or Entry(turn) for old, turn in zip(earlier, turns, strict=True)]
        for turn, entry in zip(turns, entries, strict=True):
            self._entries[_key(turn)] = entry
            self._entries.move_to_end(_key(turn))
        while len(self._entries) > _MOST:
            self._entries.popitem(last=False)
        return entries

    def settle(self, entries: Iterable[Entry], *, failed: bool) -> None:
        """Say that turns are stored, or are not and will not be."""
        for entry in entries:
            entry.failed = failed
            entry.done.set()
            if failed and self._entries.get(_key(entry.turn)) is entry:
                del self._entries[_key(entry.turn)]

    def forget(self, is_gone: Iterable[str] | None = None) -> None:
        """Forget turns that were deleted, by id, or all."""
        gone = None if is_gone is None else set(is_gone)
        for key in [key for key, entry in self._entries.items() if gone is None or entry.turn.id in gone]:
            del self._entries[key]

    def _earlier(self, turn: Turn) -> Entry | None:
        entry = self._entries.get(_key(turn))
        return entry if entry and abs(entry.turn.at - turn.at) <= self._window else None


def _key(turn: Turn) -> _Key:
    digest = blake2b(turn.text.encode(errors="surrogatepass"), digest_size=16).digest()
    return turn.scope, turn.role, turn.speaker, digest
