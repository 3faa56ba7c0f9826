"""A bounded cache of vectors: what was used longest ago goes first. Knows nothing of where they come from."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollama_async_mem.ports import Vector

__all__ = ["VectorCache"]

_ENTRY_BYTES = 240  # a place in the dictionary and the array's header, which its `nbytes` leaves out


class VectorCache:
    """Vectors by text, of at most `limit_bytes` with their texts; 0 keeps nothing."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._vectors: OrderedDict[str, Vector] = OrderedDict()  # the one used longest ago is first
        self.size_bytes = 0
        self.hits = 0

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, text: str) -> Vector | None:
        """Return the vector of a text, which is now the one used last."""
        vector = self._vectors.get(text)
        if vector is not None:
            self._vectors.move_to_end(text)
            self.hits += 1
        return vector

    def put(self, text: str, vector: Vector) -> None:
        """Keep a vector; what alone is more than the limit is not kept."""
        size = _size(text, vector)
        if size > self._limit_bytes:
            return
        if (before := self._vectors.pop(text, None)) is not None:
            self.size_bytes -= _size(text, before)
        self._vectors[text] = vector
        self.size_bytes += size
        while self.size_bytes > self._limit_bytes:
            self.size_bytes -= _size(*self._vectors.popitem(last=False))


def _size(text: str, vector: Vector) -> int:
    return sys.getsizeof(text) + vector.nbytes + _ENTRY_BYTES
