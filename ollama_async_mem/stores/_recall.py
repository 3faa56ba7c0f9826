"""How many rows must be chosen by code, so that the nearest by cosine are among them: numpy, no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._vectors import distances, sign_bits

if TYPE_CHECKING:
    from ollama_async_mem.ports import Vector

    from ._vectors import Ids, Matrix

__all__ = ["Trial"]

NEIGHBOURS = 10
MIN_BINS = 2048
_TINY = 1e-30  # all rows may be the same


class Trial:
    """Looks for the neighbours of some rows among all others, exactly and by code, in one pass over them.

    Of each neighbour it learns how many rows seem as near, once by the count of bits that differ, and once by the
    score of the signs. `rows` `(k, dimension)` are of length one; `ids` are theirs, and they are left out.
    """

    def __init__(self, ids: Ids, rows: Matrix, mean: Vector) -> None:
        self.after = 0  # the row up to which it came
        self._ids = ids
        self._rows = rows
        self._mean = mean
        self._weights = rows - mean
        self._codes = sign_bits(rows, mean)
        count, self._bins = len(rows), max(MIN_BINS, rows.shape[1] + 1)
        # The nearest so far: their scores, and their places by bits and by signs. And how many of all have each place.
        self._scores = np.full((count, NEIGHBOURS), -np.inf, np.float32)
        self._places = np.zeros((2, count, NEIGHBOURS), np.int64)
        self._counts = np.zeros((2, count, self._bins), np.int64)

    def feed(self, ids: Ids, rows: Matrix) -> None:
        """Look at further rows."""
        self.after = int(ids[-1])
        rows = rows[~np.isin(ids, self._ids)]
        places = np.stack((self._by_bits(rows), self._by_signs(rows)))
        first = np.arange(0, self._counts.size, self._bins).reshape(2, -1, 1)
        self._counts += np.bincount((first + places).ravel(), minlength=self._counts.size).reshape(self._counts.shape)
        scores = np.concatenate((self._scores, np.vecdot(rows[:, None], self._rows).T), axis=1)
        best = np.argpartition(scores, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
        self._scores = np.take_along_axis(scores, best, axis=1)
        self._places = np.take_along_axis(np.concatenate((self._places, places), axis=2), best[None], axis=2)

    def ranks(self, recall: float) -> tuple[int, int]:
        """How many rows to take by bits, and of those by signs, so that this share of the neighbours is among them."""
        ranks = np.take_along_axis(np.cumsum(self._counts, axis=2), self._places, axis=2)[:, np.isfinite(self._scores)]
        by_bits, by_signs = np.quantile(ranks, recall, axis=1) if ranks.size else (0, 0)
        return int(by_bits), int(by_signs)

    def _by_bits(self, rows: Matrix) -> Ids:
        codes = sign_bits(rows, self._mean)
        return np.stack([distances(codes, code) for code in self._codes]).astype(np.int64)

    def _by_signs(self, rows: Matrix) -> Ids:
        """The bin of each score, the best in the first."""
        scores = np.vecdot((rows > self._mean).astype(np.float32)[:, None], self._weights)
        most, span = np.maximum(self._weights, 0).sum(axis=1), np.abs(self._weights).sum(axis=1)
        bins: Matrix = (most - scores) * ((self._bins - 1) / np.maximum(span, _TINY))
        return bins.T.clip(0, self._bins - 1).astype(np.int64)
