"""What a store may do for a search in one step, beside what `ports.MemoryStore` asks of it. None has to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .ports import Vector
    from .records import Also, Candidate, Selection, Turn

    Choose = Callable[[list[Candidate]], Sequence[str]]
    Tell = Callable[[list[Candidate]], object]

__all__ = ["SearchStore"]


@runtime_checkable
class SearchStore(Protocol):
    """A store that looks in two places at once, and knows what was said around what it finds.

    It may keep the records that it gives, for any later reader, so whoever gets one changes nothing in it.
    """

    async def search_by_words(
        self, selection: Selection, query: str, *, limit: int, also: Also | None, tell: Tell
    ) -> list[Candidate]:
        """Do what `keyword_candidates` does for a selection and within `also`, as one list, best first.

        `tell` is called with it as soon as it is there, in any thread.
        """
        ...

    async def search_by_vector(
        self, selection: Selection, vector: Vector, *, model: str, limit: int, also: Also | None, choose: Choose
    ) -> tuple[list[Candidate], dict[str, list[Turn]]]:
        """Do what `dense_candidates` does for both, and `neighbours` for those of the list that `choose` names.

        `choose` is called in any thread too, and must not fail.
        """
        ...
