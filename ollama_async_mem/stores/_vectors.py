"""Vectors as bytes and as 1-bit codes, and the nearest of them: numpy, no database.

A code has a bit for each component, whether it lies above the mean of the store's vectors. The fewer bits of two
codes differ, the likelier the vectors are near; so codes choose which rows are worth an exact score.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from ollama_async_mem.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ollama_async_mem.ports import Vector

    from ._crew import Crew

    Ids: TypeAlias = NDArray[np.int64]
    Mask: TypeAlias = NDArray[np.bool_]
    Matrix: TypeAlias = NDArray[np.float32]
    Codes: TypeAlias = NDArray[np.uint64]
    Distances: TypeAlias = NDArray[np.uint16]
    Masked: TypeAlias = tuple[Ids, Matrix, Mask | None]
    ManyMasked: TypeAlias = tuple[Ids, Matrix, Sequence[Mask | None]]

__all__ = [
    "Wanted",
    "distances",
    "from_blobs",
    "nearest",
    "nearest_codes",
    "nearest_of_each",
    "nearest_to_each",
    "sign_bits",
    "sign_scores",
    "unit",
]

WORD_BITS = 64
_FURTHEST = 0xFFFF


def unit(vector: Vector) -> Vector:
    """Return a copy of length one as float32.

    Raises:
        StoreError: it is empty, not one-dimensional, zero, or holds NaN or infinity.
    """
    flat = np.asarray(vector, dtype=np.float32)
    if flat.ndim != 1 or not flat.size:
        raise StoreError(f"a vector must be one row of numbers, got the shape {flat.shape}")
    wide = flat.astype(np.float64)
    length = math.sqrt(wide @ wide)
    if not math.isfinite(length) or length == 0:
        raise StoreError("a vector is zero or holds NaN or infinity: the embedder answered with no direction")
    if abs(length - 1) < _ROUNDING:
        return flat.astype("<f4")  # a row that another store gave out stays as it is, bit by bit
    return (wide / length).astype("<f4")


_ROUNDING = 2**-23  # twice as far from one as the length of such a row can be


def from_blobs(blobs: Sequence[bytes], dimension: int) -> Matrix:
    """Rows `(n, dimension)` from their stored bytes."""
    return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, dimension)


class Wanted(NamedTuple):
    """The best `limit` rows for one of some queries, of those that the masks at a place let through."""

    query: int
    masks: int
    limit: int


def nearest(blocks: Iterable[Masked], query: Vector, limit: int) -> list[tuple[int, float]]:
    """Return the `limit` ids with the largest cosine, best first, equal ones oldest first.

    A block is ids `(n,)`, rows `(n, dimension)` of length one, and which of them count, all where that is None. The
    query has length one too. Blocks are read one at a time.
    """
    one_mask = ((ids, rows, (mask,)) for ids, rows, mask in blocks)
    return nearest_of_each(one_mask, query, [limit])[0]


def nearest_of_each(
    blocks: Iterable[ManyMasked], query: Vector, limits: Sequence[int], crew: Crew | None = None
) -> list[list[tuple[int, float]]]:
    """Return what `nearest` does for each of the masks that a block has, and the limit at its place.

    A crew may share the blocks. The score of each row that counts is held, in 12 bytes with its id.
    """

    def scored(block: ManyMasked) -> list[_Scored]:
        ids, rows, masks = block
        cosines = np.vecdot(rows, query)
        return [_Scored(ids, cosines) if mask is None else _Scored(ids[mask], cosines[mask]) for mask in masks]

    found = list(map(scored, blocks)) if crew is None else crew.map(scored, list(blocks))
    return [_top([of_block[place] for of_block in found], limit) for place, limit in enumerate(limits)]


def nearest_to_each(
    blocks: Iterable[ManyMasked], queries: Matrix, wanted: Sequence[Wanted], crew: Crew | None = None
) -> list[list[tuple[int, float]]]:
    """Return what `nearest` does for each that is wanted of queries `(m, dimension)`.

    Blocks are read one at a time, unless a crew shares them.
    """
    least = [-math.inf] * len(wanted)
    found: list[list[_Scored]] = [[] for _ in wanted]
    for (ids, rows, masks), cosines in _with_cosines(blocks, queries, crew):
        for place, (query, masked, limit) in enumerate(wanted):
            near, least[place] = _promising(ids, cosines[query], masks[masked], least[place], limit)
            exact = np.vecdot(rows[near], queries[query])  # to the last digit: in a product that depends on the others
            found[place].append(_Scored(ids[near], exact))
    return [_top(parts, of_one.limit) for parts, of_one in zip(found, wanted, strict=True)]


def _with_cosines(
    blocks: Iterable[ManyMasked], queries: Matrix, crew: Crew | None
) -> Iterable[tuple[ManyMasked, Matrix]]:
    if crew is None:
        return ((block, _cosines(block[1], queries)) for block in blocks)
    held = list(blocks)
    return zip(held, crew.map(lambda block: _cosines(block[1], queries), held), strict=True)


class _Scored(NamedTuple):
    """Rows with their cosines, in no order."""

    ids: Ids
    cosines: Matrix


_NONE = _Scored(np.empty(0, np.int64), np.empty(0, np.float32))


def _promising(ids: Ids, cosines: Matrix, mask: Mask | None, least: float, limit: int) -> tuple[Ids, float]:
    """Positions in a block of the rows that may be among the best, and what rows of other blocks must reach then."""
    near: Ids = np.flatnonzero(cosines >= least if mask is None else (cosines >= least) & mask)
    if near.size <= limit:
        return near, least
    cut = np.partition(cosines[near], near.size - limit)[near.size - limit]
    least = max(least, float(cut) - 2 * _INEXACT)  # both it and what it is compared with may be off
    near = near[cosines[near] >= least]
    most = _MOST_EQUAL * limit  # where very many are the same, the oldest
    return near if near.size <= most else near[_best(ids[near], cosines[near], most)], least


_INEXACT = 1e-5  # by how much a product of many may be off
_MOST_EQUAL = 4


def _cosines(rows: Matrix, queries: Matrix) -> Matrix:
    """Scores `(m, n)` of rows `(n, dimension)` for queries `(m, dimension)`, on one core.

    A matrix product on all cores would stall the event loop of a small machine. So rows are multiplied a few at a time,
    below the size from which OpenBLAS uses threads.
    """
    found = np.empty((len(rows), len(queries)), np.float32)
    columns, step = np.ascontiguousarray(queries.T), max(1, _ONE_THREAD // queries.size)
    for begin in range(0, len(rows), step):
        np.matmul(rows[begin : begin + step], columns, out=found[begin : begin + step])
    return np.ascontiguousarray(found.T)


_ONE_THREAD = (2 << 18) - 1  # multiplications: OpenBLAS takes a thread for each 2**18, as interface/gemm.c has it


def _top(parts: Sequence[_Scored], limit: int) -> list[tuple[int, float]]:
    """The best of several, best first."""
    ids, cosines = (
        parts[0] if len(parts) == 1 else (np.concatenate(columns) for columns in zip(_NONE, *parts, strict=True))
    )
    if ids.size > max(limit, _SORTED_AT_ONCE):
        best = _best(ids, cosines, limit)
        ids, cosines = ids[best], cosines[best]
    order = np.lexsort((ids, -cosines))[:limit]
    return list(zip(ids[order].tolist(), cosines[order].tolist(), strict=True))


_SORTED_AT_ONCE = 500  # up to here sorting takes less time than choosing what to sort


def _best(ids: Ids, scores: Matrix, limit: int) -> Ids:
    """Positions of the `limit` largest of more scores, in no order; of equal ones the oldest."""
    least = np.partition(scores, scores.size - limit)[scores.size - limit]
    above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    return np.concatenate((above, equal[np.argsort(ids[equal])[: limit - above.size]]))


def sign_bits(rows: Matrix, mean: Vector) -> Codes:
    """Codes `(n, words)` of rows `(n, dimension)`, with the words of a column side by side in memory.

    So a scan runs along the rows, which is several times faster than along the few words of each.
    """
    packed = np.packbits(rows > mean, axis=1, bitorder="little")
    words = np.zeros((len(rows), -(-packed.shape[1] * 8 // WORD_BITS) * 8), np.uint8)
    words[:, : packed.shape[1]] = packed
    return np.asfortranarray(words.view("<u8"))


def distances(codes: Codes, code: Codes) -> Distances:
    """How many bits of each of the codes `(n, words)` differ from one `(words,)`."""
    counted: Distances = np.bitwise_count(codes ^ code).sum(axis=1, dtype=np.uint16)
    return counted


def nearest_codes(blocks: Iterable[tuple[Ids, Codes, Mask | None]], code: Codes, limit: int) -> tuple[Ids, Codes]:
    """Return the `limit` ids whose codes differ least, equal ones oldest first, with their codes.

    Blocks are as those of `nearest`, with codes, and their ids rise from each to the next.
    """
    kept: list[tuple[Ids, Distances, Codes]] = []
    furthest, size = _FURTHEST, 0
    for ids, codes, mask in blocks:
        far = distances(codes, code)
        close = far < furthest  # an equal one is newer than those that are kept
        chosen = np.flatnonzero(close if mask is None else close & mask)
        kept.append((ids[chosen], far[chosen], codes[chosen]))
        size += chosen.size
        if size >= 2 * limit:
            kept = [_closest(kept, limit)]
            furthest, size = int(kept[0][1][-1]), limit
    ids, _, codes = (
        _closest(kept, limit) if kept else (np.empty(0, np.int64), None, np.empty((0, code.size), np.uint64))
    )
    return ids, codes


def _closest(kept: Sequence[tuple[Ids, Distances, Codes]], limit: int) -> tuple[Ids, Distances, Codes]:
    ids, far, codes = (np.concatenate(columns) for columns in zip(*kept, strict=True))
    best = np.argsort(far, kind="stable")[:limit]
    return ids[best], far[best], codes[best]


def sign_scores(codes: Codes, query: Vector, mean: Vector) -> Matrix:
    """How far the vectors `(n,)` behind codes reach towards a query, as well as their signs alone can tell.

    That is better than the count of bits that differ, for it knows which components matter, but takes longer.
    """
    signs = np.unpackbits(np.ascontiguousarray(codes).view(np.uint8), axis=1, count=query.size, bitorder="little")
    scores: Matrix = np.vecdot(signs.astype(np.float32), query - mean)
    return scores
