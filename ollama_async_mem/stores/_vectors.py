"""Vectors as bytes and exact nearest neighbours: numpy, no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ollama_async_mem.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ollama_async_mem.ports import Vector

    Ids = NDArray[np.int64]
    Matrix = NDArray[np.float32]

__all__ = ["from_blobs", "nearest", "unit"]


def unit(vector: Vector) -> Vector:
    """Return a copy of length one as float32.

    Raises:
        StoreError: it is empty, not one-dimensional, zero, or holds NaN or infinity.
    """
    flat = np.asarray(vector, dtype=np.float32)
    if flat.ndim != 1 or not flat.size:
        raise StoreError(f"a vector must be one row of numbers, got the shape {flat.shape}")
    length = np.linalg.norm(flat.astype(np.float64))
    if not np.isfinite(length) or length == 0:
        raise StoreError("a vector is zero or holds NaN or infinity: the embedder answered with no direction")
    return (flat / length).astype("<f4")


def nearest(blocks: Iterable[tuple[Ids, Matrix]], query: Vector, limit: int) -> list[tuple[int, float]]:
    """Return the `limit` ids with the largest cosine, best first, equal ones oldest first.

    A block is ids `(n,)` and rows `(n, dimension)` of length one; blocks are read one at a time.
    """
    ids: Ids = np.empty(0, dtype=np.int64)
    scores: Matrix = np.empty(0, dtype=np.float32)
    for block_ids, rows in blocks:
        # vecdot stays on one core; a threaded matrix product would stall the event loop on a small machine
        ids = np.concatenate((ids, block_ids))
        scores = np.concatenate((scores, np.vecdot(rows, query)))
        best = _best(scores, limit)
        ids, scores = ids[best], scores[best]
    order = np.lexsort((ids, -scores))
    return [(int(ids[i]), float(scores[i])) for i in order]


def _best(scores: Matrix, limit: int) -> Ids:
    """Positions of the `limit` largest scores, in no order."""
    if scores.size <= limit:
        return np.arange(scores.size)
    return np.argpartition(scores, scores.size - limit)[-limit:]


def from_blobs(blobs: Sequence[bytes], dimension: int) -> Matrix:
    """Rows `(n, dimension)` from their stored bytes."""
    return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, dimension)
