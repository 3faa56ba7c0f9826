"""Vectors to store and to look for, and an exact search to compare with: numpy alone, no store."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float32]
Numbers: TypeAlias = NDArray[np.int64]

ROWS_PER_CLUSTER = 100
COMMON, SPREAD = 0.6, 0.8  # of a vector's length: what all have in common, and what differs within a cluster
DECAY = -0.5  # the spread along the axes of a cluster falls with this power, as that of embeddings does
KEPT = 64  # exact neighbours of a query, so that equal ones beyond the limit are known
TOLERANCE = 1e-6  # what float32 makes of equal scores


class Mixture:
    """Clusters of unequal sizes. What it draws is like embeddings: of one side, and of few dimensions locally."""

    def __init__(self, rows: int, dimension: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._centres = unit_rows(_normal(rng, max(8, rows // ROWS_PER_CLUSTER), dimension))
        self._centres += COMMON * unit_rows(_normal(rng, 1, dimension))
        scale = np.arange(1, dimension + 1, dtype=np.float32) ** DECAY
        axes = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
        self._axes: Matrix = axes * (SPREAD * scale / np.linalg.norm(scale))[:, None]

    def draw(self, count: int, rng: np.random.Generator) -> Matrix:
        """Vectors `(count, dimension)` of length one; two draws are never equal."""
        clusters, dimension = self._centres.shape
        members = (rng.random(count) ** 2 * clusters).astype(np.intp)
        return unit_rows(self._centres[members] + _normal(rng, count, dimension) @ self._axes)


def _normal(rng: np.random.Generator, rows: int, dimension: int) -> Matrix:
    return rng.standard_normal((rows, dimension), np.float32)


def unit_rows(rows: Matrix) -> Matrix:
    """Each row with length one."""
    unit: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


class Exact:
    """The nearest rows to each query among those of its owner, in one pass over all rows."""

    def __init__(self, queries: Matrix, owners: Numbers) -> None:
        self._queries = queries
        self._owners = owners
        self._next = 0
        self.numbers: Numbers = np.full((len(queries), KEPT), -1)
        self.scores: Matrix = np.full((len(queries), KEPT), -2, np.float32)

    def feed(self, rows: Matrix, owners: Numbers) -> None:
        """Look at further rows, whose numbers follow those before."""
        found = self._queries @ rows.T
        found[self._owners[:, None] != owners] = -2
        numbers = np.broadcast_to(np.arange(self._next, self._next + len(rows)), found.shape)
        scores = np.concatenate((self.scores, found), axis=1)
        numbers = np.concatenate((self.numbers, numbers), axis=1)
        best = np.argpartition(-scores, KEPT, axis=1)[:, :KEPT]
        self.scores, self.numbers = (np.take_along_axis(some, best, axis=1) for some in (scores, numbers))
        self._next += len(rows)


def recall(found: Numbers, limit: int, numbers: Numbers, scores: Matrix) -> float:
    """How many of the `limit` nearest rows of one query were found; `numbers` and `scores` are the exact ones."""
    least = np.sort(scores)[-limit] - TOLERANCE
    return float(np.isin(found, numbers[scores >= least]).sum() / limit)
