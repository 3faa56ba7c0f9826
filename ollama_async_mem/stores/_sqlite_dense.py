"""Dense search: exact in a small scope; in a large one codes choose the rows that are scored exactly.

What is not meant is left out before the best are chosen, so a filter never makes a search find too few.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from ollama_async_mem.records import EmbeddingSpace

from . import _sqlite_blocks as blocks
from . import _sqlite_codes as codes
from ._checks import require_space
from ._crew import Crew
from ._sqlite_blocks import Meant
from ._sqlite_matrices import Vectors
from ._sqlite_reads import neighbours
from ._sqlite_rows import candidates, candidates_of_each, owned, read_space
from ._sqlite_selection import resolve, selection_sql
from ._sqlite_sharing import Sharing
from ._sqlite_times import is_of_time
from ._sqlite_values import micros
from ._sqlite_work import begin, stamp_of
from ._vectors import nearest, nearest_codes, nearest_to_each, sign_bits, sign_scores, unit

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from ollama_async_mem.ports import Choose, Vector
    from ollama_async_mem.records import Candidate, Selection, Turn

    from ._sqlite_blocks import Block
    from ._sqlite_matrices import MatrixCache, Mirror
    from ._sqlite_selection import ScopeKeys
    from ._sqlite_work import Stamp
    from ._vectors import Codes, Ids, Mask, Matrix

__all__ = ["Asked", "NearestSearch"]

Scored: TypeAlias = list[tuple[int, float]]
Read: TypeAlias = "Callable[[Callable[[sqlite3.Connection], list[Found]]], Awaitable[list[Found]]]"

SHARED_BYTES = 8 << 20  # of vectors, from which on it is worth waking another thread to read half of them
MOST_TOGETHER = 32  # queries: the more, the cheaper each is, but the first of them waits longer


class Search(NamedTuple):
    """What is searched for, and where."""

    conn: sqlite3.Connection
    cache: MatrixCache
    crew: Crew
    selection: Selection
    queries: Matrix  # of length one, (n, dimension)
    space: EmbeddingSpace
    limit: int
    now: datetime
    where: str


class Asked(NamedTuple):
    """A vector of any length, and which of the turns that it finds are wanted with their neighbours."""

    vector: Vector
    choose: Choose = lambda _: ()


class Found(NamedTuple):
    """What is nearest, and what was said around it."""

    candidates: list[Candidate]
    neighbours: dict[str, list[Turn]]


class NearestSearch:
    """Searches a store by vectors; those for the same that come at the same time share the work."""

    def __init__(self, cache: MatrixCache, where: str) -> None:
        self.cache = cache
        self._where = where
        self._crew = Crew()
        self._sharing: Sharing[Asked, Found] = Sharing(MOST_TOGETHER)

    async def find(self, read: Read, selection: Selection, asked: Asked, *, model: str, limit: int) -> Found:
        """Return the memories nearest to a vector, scored by cosine.

        Raises:
            EmbeddingMismatch: the store holds vectors of another model or dimension.
            StoreError: the vector has no direction.
        """
        space = EmbeddingSpace(model, np.size(asked.vector))
        asked = asked._replace(vector=unit(asked.vector))  # what is wrong with it concerns nobody else
        now = datetime.now(UTC)

        def run(together: list[Asked]) -> Awaitable[list[Found]]:
            def work(conn: sqlite3.Connection) -> list[Found]:
                queries = np.stack([asked.vector for asked in together])
                search = Search(conn, self.cache, self._crew, selection, queries, space, limit, now, self._where)
                return _with_neighbours(search, _search(search), [asked.choose for asked in together])

            return read(work)

        if selection.where is not None:
            return (await run([asked]))[0]
        same = (selection.scope, tuple(selection.kinds), selection.as_of, selection.everything, space, limit)
        return await self._sharing.ask(same, asked, run)

    def stop(self) -> None:
        """End its threads once the last search is over."""
        self._crew.stop()


def _search(search: Search) -> list[list[Candidate]]:
    """Return for each query the memories nearest to it. It must be the first to read in its snapshot."""
    mirror = search.cache.vectors(search.selection.scope)
    found = None if mirror.is_large else _among_vectors(search, mirror)
    if found is not None:
        return candidates_of_each(search.conn, found)
    each = (search._replace(queries=query[None]) for query in search.queries)
    return [candidates(search.conn, _among_codes(one, mirror)) for one in each]


def _with_neighbours(search: Search, found: list[list[Candidate]], choices: list[Choose]) -> list[Found]:
    """Add what was said around those that are chosen. No search shares a record with another."""
    chosen = [choose(candidates) for candidates, choose in zip(found, choices, strict=True)]
    every = {turn_id for turn_ids in chosen for turn_id in turn_ids}
    near = neighbours(search.conn, list(every), 1, 1, search.now) if every else {}

    if len(found) == 1:
        return [Found(found[0], near)]
    each = ({i: [owned(turn) for turn in near[i]] for i in turn_ids if i in near} for turn_ids in chosen)
    return [Found(*of_one) for of_one in zip(found, each, strict=True)]


def _among_vectors(search: Search, mirror: Mirror[Vectors]) -> list[Scored] | None:
    """Compare with each vector of a scope; None: it has too many."""
    with mirror.lock:
        stamp = stamp_of(search.conn)
        keys = _keys(search)
        if keys is None:
            return [[] for _ in search.queries]
        source = Vectors(keys, search.space.dimension)
        if mirror.source is None:
            mirror.is_large = source.count_rows(search.conn, codes.EXACT_ROWS + 1) > codes.EXACT_ROWS
        if mirror.is_large:
            return None
        held, _ = search.cache.held(mirror, search.conn, stamp, source)
        if mirror.rows > codes.EXACT_ROWS:
            mirror.is_large = True
            mirror.clear()
        is_shared = mirror.source is not None and mirror.size_bytes >= SHARED_BYTES
    meant = _meant(search, None)
    masked = ((block.seqs, block.data, meant.mask(block)) for block in held)
    if len(search.queries) > 1:
        return nearest_to_each(masked, search.queries, search.limit)
    return [nearest(masked, search.queries[0], search.limit, search.crew if is_shared else None)]


def _among_codes(search: Search, mirror: Mirror[Vectors]) -> Scored:
    """Compare one query with the vectors of those rows whose codes are nearest."""
    shared = search.cache.codes()
    with shared.lock:
        stamp = _new_snapshot(search.conn)
        keys, coding = _keys(search), codes.read_coding(search.conn)
        if keys is None:
            return []
        if coding is not None:
            held, source = search.cache.held(shared, search.conn, stamp, coding)
    if coding is None:
        return _scan(search)
    listed, scored = coding.room(search.limit)
    code, meant = sign_bits(search.queries, source.mean)[0], _meant(search, keys)
    seqs, rows = nearest_codes(_masked(held, meant), code, listed)
    if seqs.size < listed and search.selection.where is None and meant.facts is None:
        mirror.is_large = False  # it shrank
    best = np.argsort(-sign_scores(rows, search.queries[0], source.mean), kind="stable")[:scored]
    chosen = blocks.read_vectors(search.conn, seqs[best], search.space.dimension)
    return nearest(chosen, search.queries[0], search.limit)


def _masked(held: Iterable[Block], meant: Meant) -> Iterator[tuple[Ids, Codes, Mask | None]]:
    """The codes with their masks; where few rows are meant, only these."""
    for block in held:
        mask = meant.mask(block)
        if mask is None or np.count_nonzero(mask) > mask.size // 8:
            yield block.seqs, block.data, mask
        elif mask.any():
            yield block.seqs[mask], block.data[mask], None


def _scan(search: Search) -> Scored:
    """Compare with each vector in the file, for a store whose codes are still to be made."""
    condition, values = selection_sql(search.conn, search.selection, search.now) or ("FALSE", [])
    ordered = f"memories.seq IN (SELECT seq FROM memories WHERE {condition})"  # noqa: S608 - no text of others
    rows = blocks.read_rows(search.conn, ordered, values, search.space.dimension)
    return nearest(((block.seqs, block.data, None) for block in rows), search.queries[0], search.limit)


def _keys(search: Search) -> ScopeKeys | None:
    """The scope as the store knows it; None where nothing can be found.

    Raises:
        EmbeddingMismatch: the store holds vectors of another model or dimension.
    """
    space = read_space(search.conn)
    if space is None:
        return None
    require_space(space, search.space, search.where)
    return resolve(search.conn, search.selection.scope) if search.selection.kinds else None


def _meant(search: Search, keys: ScopeKeys | None) -> Meant:
    """Which rows are meant: of a mirror of the scope, or with `keys` of the whole store."""
    selection = search.selection
    if selection.where is not None and not is_of_time(selection.where):
        condition, values = selection_sql(search.conn, selection, search.now) or ("FALSE", [])
        found = search.conn.execute(f"SELECT seq FROM memories WHERE {condition}", values)  # noqa: S608 - no text of others
        return Meant(seqs=blocks.sorted_seqs(found))
    as_of = None if selection.as_of is None or selection.everything else micros(selection.as_of)
    return Meant(
        scopes=None if keys is None else _scope_mask(search.conn, keys),
        facts="fact" in selection.kinds if len(set(selection.kinds)) == 1 else None,
        holding_at=None if selection.everything else micros(search.now) if as_of is None else as_of,
        said_by=as_of,
        when=selection.where,
    )


def _scope_mask(conn: sqlite3.Connection, keys: ScopeKeys) -> Mask | None:
    """Which rows of `scopes` are of a scope; None is all."""
    (last,) = conn.execute("SELECT max(id) FROM scopes").fetchone()
    rows = conn.execute(f"SELECT id FROM scopes WHERE {keys.sql('id')}", keys.keys)  # noqa: S608 - column names only
    mask = np.zeros(last + 1, np.bool_)
    mask[[0, *(scope_id for (scope_id,) in rows)]] = True  # there is no scope 0
    return None if mask.all() else mask


def _new_snapshot(conn: sqlite3.Connection) -> Stamp:
    """Leave the snapshot for one that no mirror is newer than."""
    conn.execute("ROLLBACK")
    begin(conn)
    return stamp_of(conn)
