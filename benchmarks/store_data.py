"""Makes the data of the store benchmark, and what is looked for in them with its exact answers.

Vectors are drawn from a mixture or made by the model inside the package's engine; texts are made up. Runs in
contenders only. It writes to no store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .store_case import DATA, SEED, Asked, turn
from .texts import questions, sentences
from .vectors import Exact, Mixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ollama_async_mem.records import Turn

    from .vectors import Matrix

    Embed: TypeAlias = Callable[[Sequence[str], np.random.Generator], Matrix]

BATCH_ROWS = 1000


async def embedder() -> Embed:
    """What gives texts their vectors."""
    if not DATA.real:
        mixture = Mixture(DATA.rows, DATA.dimension, SEED)
        return lambda texts, rng: mixture.draw(len(texts), rng)

    from ollama_async_mem.engine.static import StaticEmbedder  # noqa: PLC0415 - only here the extra is needed

    model = await StaticEmbedder.start(n_ctx=512)
    return lambda texts, _: model.embed_sync(texts, truncate=True)[0]


class Made:
    """The rows of this case, and queries, each of which is compared with every row that is given out."""

    def __init__(self, embed: Embed, queries: int) -> None:
        self._embed = embed
        rng = np.random.default_rng(SEED + 1)
        self._texts = questions(queries, rng)
        self._vectors = embed(self._texts, rng)
        self._users = rng.permutation(max(queries, DATA.users))[:queries] % DATA.users
        self._exact = Exact(self._vectors, self._users)

    def batches(self) -> Iterator[tuple[list[Turn], Matrix]]:
        """The rows and their vectors, in order."""
        rng = np.random.default_rng(SEED + 2)
        for first in range(0, DATA.rows, BATCH_ROWS):
            texts = sentences(min(BATCH_ROWS, DATA.rows - first), rng)
            vectors = self._embed(texts, rng)
            self._exact.feed(vectors, np.arange(first, first + len(texts)) % DATA.users)
            yield [turn(number, text) for number, text in enumerate(texts, first)], vectors

    def asked(self) -> Asked:
        """The queries, with their exact answers among what was given out."""
        return Asked(self._vectors, self._texts, self._users, self._exact.numbers, self._exact.scores)
