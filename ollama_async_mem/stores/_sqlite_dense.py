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
from ._checks import check, require_space
from ._crew import Crew
from ._sqlite_blocks import Meant
from ._sqlite_matrices import Vectors
from ._sqlite_reads import shared_neighbours
from ._sqlite_rows import candidates, candidates_of_each, merged, read_space
from ._sqlite_selection import resolve, selection_sql
from ._sqlite_sharing import Sharing
from ._sqlite_times import is_of_time
from ._sqlite_values import micros
from ._sqlite_work import renewed, stamp_of
from ._vectors import Wanted, nearest, nearest_codes, nearest_of_each, nearest_to_each, sign_bits, sign_scores, unit

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Also, Candidate, Selection, Turn
    from ollama_async_mem.steps import Choose

    from ._sqlite_blocks import Block
    from ._sqlite_matrices import MatrixCache, Mirror
    from ._sqlite_selection import ScopeKeys
    from ._vectors import Codes, Ids, Mask

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
    asked: Sequence[Asked]
    space: EmbeddingSpace
    limit: int
    now: datetime
    where: str

    def within(self, also: Also) -> Search:
        """The same in a narrower place."""
        return self._replace(selection=also.within(self.selection), limit=also.limit)


class Asked(NamedTuple):
    """A vector of any length, where else to look, and which of the turns found are wanted with their neighbours."""

    vector: Vector
    also: Also | None = None
    choose: Choose = lambda _: ()


class Found(NamedTuple):
    """What is nearest, and what was said around it, with records that are shared."""

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
            ConfigError: a kind is unknown, or a limit below 1.
        """
        check(selection.kinds, limit)
        space = EmbeddingSpace(model, np.size(asked.vector))
        asked = asked._replace(vector=unit(asked.vector))  # what is wrong with it concerns nobody else
        now = datetime.now(UTC)

        def run(together: list[Asked]) -> Awaitable[list[Found]]:
            def work(conn: sqlite3.Connection) -> list[Found]:
                search = Search(conn, self.cache, self._crew, selection, together, space, limit, now, self._where)
                return _with_neighbours(search, _search(search))

            return read(work)

        if selection.where is not None:
            return (await run([asked]))[0]
        same = (selection.scope, tuple(selection.kinds), selection.as_of, selection.everything, space, limit)
        return await self._sharing.ask(same, asked, run)

    def stop(self) -> None:
        """End its threads once the last search is over."""
        self._crew.stop()


def _search(search: Search) -> list[list[Candidate]]:
    """Return for each query the memories nearest to it. It may begin a new snapshot."""
    mirror = search.cache.vectors(search.selection.scope)
    found = None if mirror.is_large else _among_vectors(search, mirror)
    if found is not None:
        return candidates_of_each(search.conn, found)
    return [candidates(search.conn, _by_codes(search, asked, mirror)) for asked in search.asked]


def _with_neighbours(search: Search, found: list[list[Candidate]]) -> list[Found]:
    """Add what was said around those that are chosen."""
    chosen = [asked.choose(candidates) for candidates, asked in zip(found, search.asked, strict=True)]
    every = {turn_id for turn_ids in chosen for turn_id in turn_ids}
    near = shared_neighbours(search.conn, list(every), 1, 1, search.now) if every else {}
    each = ({i: near[i] for i in turn_ids if i in near} for turn_ids in chosen)
    return [Found(*of_one) for of_one in zip(found, each, strict=True)]


def _among_vectors(search: Search, mirror: Mirror[Vectors]) -> list[Scored] | None:
    """Compare with each vector of a scope; None: it has too many."""
    with mirror.lock:
        stamp = renewed(search.conn) if mirror.is_ahead(search.conn) else stamp_of(search.conn)
        keys = _keys(search)
        if keys is None:
            return [[] for _ in search.asked]
        source = Vectors(keys, search.space.dimension)
        if mirror.source is None:
            mirror.is_large = source.count_rows(search.conn, codes.EXACT_ROWS + 1) > codes.EXACT_ROWS
        if mirror.is_large:
            return None
        held, _ = search.cache.held(mirror, search.conn, stamp, source)
        if mirror.rows > codes.EXACT_ROWS:
            mirror.is_large = True
            search.cache.empty(mirror)
        is_shared = mirror.source is not None and mirror.size_bytes >= SHARED_BYTES
    meant, wanted = [_meant(search, None)], [Wanted(place, 0, search.limit) for place in range(len(search.asked))]
    for place, asked in enumerate(search.asked):
        if asked.also is not None:
            wanted.append(Wanted(place, len(meant), asked.also.limit))
            meant.append(_meant(search.within(asked.also), None))
    masked = ((block.seqs, block.data, [rows.mask(block) for rows in meant]) for block in held)
    crew = search.crew if is_shared else None
    if len(search.asked) > 1:
        found = nearest_to_each(masked, np.stack([asked.vector for asked in search.asked]), wanted, crew)
    else:
        found = nearest_of_each(masked, search.asked[0].vector, [one.limit for one in wanted], crew)
    of_each: list[list[Scored]] = [[] for _ in search.asked]
    for one, rows in zip(wanted, found, strict=True):
        of_each[one.query].append(rows)
    return [merged(lists) for lists in of_each]


def _by_codes(search: Search, asked: Asked, mirror: Mirror[Vectors]) -> Scored:
    """Compare one query with the vectors of those rows whose codes are nearest, in a snapshot that it begins."""
    shared, found = search.cache.codes(), []
    places = [search] if asked.also is None else [search, search.within(asked.also)]
    with shared.lock:
        stamp = renewed(search.conn)
        keys, coding = _keys(search), codes.read_coding(search.conn)
        if keys is None:
            return []
        held = [] if coding is None else [search.cache.held(shared, search.conn, stamp, coding) for _ in places]
    if coding is None:
        return merged([_scan(place, asked.vector) for place in places])
    for place, (rows, source) in zip(places, held, strict=True):
        listed, scored = coding.room(place.limit)
        meant = _meant(place, keys)
        near = nearest_codes(_masked(rows, meant), sign_bits(asked.vector[None], source.mean)[0], listed)
        if near[0].size < listed and place.selection.where is None and meant.facts is None:
            mirror.is_large = False  # it shrank
        found.append(_exact(place, asked.vector, source.mean, near, scored))
    return merged(found)


def _exact(search: Search, query: Vector, mean: Vector, near: tuple[Ids, Codes], scored: int) -> Scored:
    """Compare a query with the vectors of as many rows as are to be scored, those whose codes promise most."""
    seqs, rows = near
    best = np.argsort(-sign_scores(rows, query, mean), kind="stable")[:scored]
    return nearest(blocks.read_vectors(search.conn, seqs[best], search.space.dimension), query, search.limit)


def _masked(held: Iterable[Block], meant: Meant) -> Iterator[tuple[Ids, Codes, Mask | None]]:
    """The codes with their masks; where few rows are meant, only these."""
    for block in held:
        mask = meant.mask(block)
        if mask is None or np.count_nonzero(mask) > mask.size // 8:
            yield block.seqs, block.data, mask
        elif mask.any():
            yield block.seqs[mask], block.data[mask], None


def _scan(search: Search, query: Vector) -> Scored:
    """Compare with each vector in the file, for a store whose codes are still to be made."""
    condition, values = selection_sql(search.conn, search.selection, search.now) or ("FALSE", [])
    ordered = f"memories.seq IN (SELECT seq FROM memories WHERE {condition})"  # noqa: S608 - no text of others
    rows = blocks.read_rows(search.conn, ordered, values, search.space.dimension)
    return nearest(((block.seqs, block.data, None) for block in rows), query, search.limit)


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
