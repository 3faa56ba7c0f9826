"""The keyword index: which memories share words with a query. Runs inside one snapshot.

FTS5 ranks by walking, for each phrase of an expression, through all rows of the file that have it, and then scoring
each row that matches. Unless the store is small a search therefore ranks by its rare words, and words that are in very
many rows only fill up what those leave: to BM25, what is in every second row says nothing anyway. And of a scope only
the rarest id is looked for in the index, the row has the rest.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from ._checks import check
from ._sqlite_blocks import newest_seq
from ._sqlite_inserts import indexes_parts
from ._sqlite_rows import candidates, gathered, merged
from ._sqlite_selection import resolve, selection_sql
from ._sqlite_values import micros
from ._sqlite_work import number
from ._text import keywords

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Sequence

    from ollama_async_mem.records import Also, Candidate, Selection
    from ollama_async_mem.steps import Tell

    from ._sqlite_filters import Sql

__all__ = ["WordSearch"]

Scored: TypeAlias = list[tuple[int, float]]
Read: TypeAlias = "Callable[[Callable[[sqlite3.Connection], list[Candidate]]], Awaitable[list[Candidate]]]"

SMALL_STORE = 1000  # rows; up to here all words of a query rank
TRIED = 2  # times as many rows as are wanted are looked up first
MAX_WALKED = 200_000  # rows that a search walks through, at some 0.15 microseconds for each
NARROW = 64  # rows, among those of some rows that a search goes through in order, and most are of other scopes
SCORING = 6  # how much more it takes to score a row than to walk past it (measured)
MOST_FOR_ONE = 400_000  # by how much the rarest word may exceed that
MAX_KNOWN = 20_000


class _Counts:
    """In how many rows phrases are, as of when they were first asked for. The reader threads share it."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self.as_of = 0

    def at(self, rows: int) -> None:
        """Forget what was counted when the store was much smaller."""
        if rows > self.as_of * 1.25 or len(self._counts) > MAX_KNOWN:
            self._counts, self.as_of = {}, rows

    def count(self, conn: sqlite3.Connection, phrase: str) -> int:
        """Count the rows of the file that have a phrase, up to `MAX_WALKED`."""
        known = self._counts.get(phrase)
        if known is None:
            sql = "SELECT count(*) FROM (SELECT 1 FROM memory_index WHERE memory_index MATCH ? LIMIT ?)"
            known = self._counts[phrase] = conn.execute(sql, (phrase, MAX_WALKED)).fetchone()[0]
        return known


class _Terms(NamedTuple):
    """What a query looks for: an expression for the scope, words that rank, and those that only fill up."""

    scope: str
    is_narrow: bool  # whether it lets so few rows through that all are looked up
    ranking: list[str]
    filling: dict[str, float]  # with a score for each


class _Place(NamedTuple):
    """A condition on `memories` with its values, and how many rows are wanted there."""

    condition: str
    values: list[Any]
    limit: int


class WordSearch:
    """Searches a store by words."""

    def __init__(self) -> None:
        self._counts = _Counts()

    async def find(
        self,
        read: Read,
        selection: Selection,
        query: str,
        *,
        limit: int,
        also: Also | None = None,
        tell: Tell | None = None,
    ) -> list[Candidate]:
        """Return the memories that share words with a query, best first, there and within `also`.

        The thread that finds them tells so.

        Raises:
            ConfigError: a kind is unknown, or a limit below 1.
        """
        check(selection.kinds, limit)
        now = datetime.now(UTC)
        places = [(selection, limit)] if also is None else [(selection, limit), (also.within(selection), also.limit)]

        def work(conn: sqlite3.Connection) -> list[Candidate]:
            found = candidates(conn, merged(self._find(conn, query, places, now)))
            if tell is not None:
                tell(found)
            return found

        return await read(work)

    def _find(
        self, conn: sqlite3.Connection, query: str, places: list[tuple[Selection, int]], now: datetime
    ) -> list[Scored]:
        """The best rows in each place. The first has the scope and the kinds of all."""
        words, first = [f'body : "{word}"' for word in keywords(query, pairs=not indexes_parts(conn))], places[0][0]
        keys = resolve(conn, first.scope)
        if not words or keys is None or not first.kinds:
            return [[]]
        owners, rows = keys.phrases(_classes(conn, first, now)), newest_seq(conn)
        if rows <= SMALL_STORE:
            terms = _Terms(_all(owners), True, words, {})
        else:
            terms = _choose(conn, self._counts, owners, words, rows)
        chosen = [_Place(*(selection_sql(conn, at, now) or ("FALSE", [])), limit) for at, limit in places]
        found = _ranked(conn, terms, chosen) if terms.ranking else [[] for _ in places]
        return [_filled(conn, terms, place, ranked) for place, ranked in zip(chosen, found, strict=True)]


def _all(phrases: Sequence[str]) -> str:
    return "".join(f" AND ({phrase})" for phrase in phrases)


def _choose(conn: sqlite3.Connection, counts: _Counts, owners: list[str], words: list[str], rows: int) -> _Terms:
    """Take the rarest id of the scope, if that is rare at all, and of the words the rarest that can be afforded."""
    counts.at(rows)
    within, owner = min((counts.count(conn, phrase), phrase) for phrase in owners)
    if within > min(rows // 3, MAX_WALKED - 1):
        within, owner = rows, ""
    left = MAX_WALKED
    ranking: list[str] = []
    filling: dict[str, float] = {}
    for count, word in sorted((counts.count(conn, word), word) for word in words):
        left -= count + SCORING * min(count, within)
        if count < min(MAX_WALKED, rows // 2) and left >= (0 if ranking else -MOST_FOR_ONE):
            ranking.append(word)
        else:
            filling[word] = _common_score(count, rows)
    return _Terms(_all([owner] if owner else []), within**2 <= NARROW * rows, ranking, filling)


def _common_score(count: int, rows: int) -> float:
    """The score that BM25 gives to a row of average length with a word once, as FTS5 has it."""
    return max(math.log((rows - count + 0.5) / (count + 0.5)), 1e-6)


def _ranked(conn: sqlite3.Connection, terms: _Terms, places: list[_Place]) -> list[Scored]:
    """The best rows of each place with words that rank.

    FTS5 scores each row that matches once. Unless few are expected, rows are looked up from the best on; where that
    leaves too few, all are. Its bm25 is negative: https://www.sqlite.org/fts5.html#the_bm25_function.
    """
    expression = f"({' OR '.join(terms.ranking)}){terms.scope}"
    first = places[0]
    tried = -1 if terms.is_narrow else TRIED * first.limit
    how = "" if len(places) > 1 else "NOT"  # read more than once
    columns = [_best_sql("best" if place is first else "found", place) for place in places]
    sql = f"""
        WITH found AS {how} MATERIALIZED (
          SELECT rowid AS seq, -rank AS score FROM memory_index WHERE memory_index MATCH ?
        ), best AS MATERIALIZED (SELECT seq, score FROM found ORDER BY score DESC, seq LIMIT ?)
        SELECT (SELECT count(*) FROM best), {", ".join(columns)}
    """  # noqa: S608 - column names only
    values = [value for place in places for value in (*place.values, place.limit)]
    count, *texts = conn.execute(sql, (expression, tried, *values)).fetchone()
    found: list[Scored] = [msgspec.json.decode(text) for text in texts]
    if count == tried and len(found[0]) < first.limit:
        return _ranked(conn, terms._replace(is_narrow=True), places)
    return [sorted(((seq, score) for seq, score in of_one), key=lambda row: (-row[1], row[0])) for of_one in found]


def _best_sql(table: str, place: _Place) -> str:
    """The best rows of a table that are in a place, as one text: at each row, threads may have to take turns."""
    return f"""(
        SELECT json_group_array(json_array(seq, score)) FROM (
          SELECT memories.seq AS seq, score FROM {table} CROSS JOIN memories ON memories.seq = {table}.seq
          WHERE {place.condition} ORDER BY score DESC, {table}.seq LIMIT ?
        )
    )"""  # noqa: S608 - column names only


def _filled(conn: sqlite3.Connection, terms: _Terms, place: _Place, ranked: Scored) -> Scored:
    """Up to the limit, what was ranked and then the newest rows with words that do not rank."""
    found = dict(ranked)
    least = min(found.values(), default=math.inf)
    for word, score in terms.filling.items():
        if len(found) < place.limit:
            for seq in sorted(gathered(conn, "seq", *_filling_sql(terms, word, place)), reverse=True):
                found.setdefault(seq, min(score, least))
    return sorted(found.items(), key=lambda row: -row[1])[: place.limit]


def _filling_sql(terms: _Terms, word: str, place: _Place) -> Sql:
    """The newest rows with a word. FTS5 can go back from the newest row, past many of other scopes."""
    order = "+memories.seq" if terms.is_narrow else "memory_index.rowid"
    sql = f"""
        SELECT memories.seq AS seq FROM memory_index CROSS JOIN memories ON memories.seq = memory_index.rowid
        WHERE memory_index MATCH ? AND {place.condition} ORDER BY {order} DESC LIMIT ?
    """  # noqa: S608 - column names only
    return sql, [f"{word}{terms.scope}", *place.values, place.limit]


def _classes(conn: sqlite3.Connection, selection: Selection, now: datetime) -> list[str]:
    """The classes that the memories of a selection can have in the index: see `_sqlite_migrations`."""
    classes = ["t"] if "turn" in selection.kinds else []
    if "fact" in selection.kinds:
        only_now = not selection.everything and selection.as_of is None
        last_end = number(conn, "SELECT max(valid_to) FROM memories WHERE valid_to IS NOT NULL")
        may_be_ended = not only_now or last_end > micros(now)  # few facts end in the future, if any
        classes += ["f", "d"] if may_be_ended else ["f"]
    return classes
