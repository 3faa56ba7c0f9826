"""The keyword index: which memories share words with a query. Runs inside one snapshot.

FTS5 ranks by walking, for each phrase of an expression, through all rows of the file that have it, and then scoring
each row that matches. Unless the store is small a search therefore ranks by its rare words, and words that are in very
many rows only fill up what those leave: to BM25, what is in every second row says nothing anyway. And of a scope only
the rarest id is looked for in the index, the row has the rest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ._sqlite_blocks import newest_seq
from ._sqlite_inserts import indexes_parts
from ._sqlite_rows import candidates, gathered
from ._sqlite_selection import resolve, selection_sql
from ._sqlite_values import micros
from ._sqlite_work import number
from ._text import keywords

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from datetime import datetime

    from ollama_async_mem.records import Candidate, Selection

    from ._sqlite_filters import Sql

__all__ = ["PhraseCounts", "keyword_candidates"]

SMALL_STORE = 1000  # rows; up to here all words of a query rank
MAX_WALKED = 200_000  # rows that a search walks through, at some 0.15 microseconds for each
NARROW = 64  # rows, among those of some rows that a search goes through in order, and most are of other scopes
SCORING = 6  # how much more it takes to score a row than to walk past it (measured)
MOST_FOR_ONE = 400_000  # by how much the rarest word may exceed that
MAX_KNOWN = 20_000


class PhraseCounts:
    """In how many rows phrases are, as of when they were first asked for. The reader threads share it."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._as_of = 0

    def at(self, rows: int) -> None:
        """Forget what was counted when the store was much smaller."""
        if rows > self._as_of * 1.25 or len(self._counts) > MAX_KNOWN:
            self._counts, self._as_of = {}, rows

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
    is_narrow: bool  # whether it lets so few rows through that they are sorted here
    ranking: list[str]
    filling: dict[str, float]  # with a score for each


def keyword_candidates(
    conn: sqlite3.Connection, counts: PhraseCounts, *, selection: Selection, query: str, limit: int, now: datetime
) -> list[Candidate]:
    """Ask the keyword index. FTS5's bm25 is negative, the better the lower: https://www.sqlite.org/fts5.html#the_bm25_function."""
    words = [f'body : "{word}"' for word in keywords(query, pairs=not indexes_parts(conn))]
    chosen, owners = selection_sql(conn, selection, now), _owner_phrases(conn, selection, now)
    if not words or not owners or chosen is None:
        return []
    rows = newest_seq(conn)
    terms = _Terms(_all(owners), True, words, {}) if rows <= SMALL_STORE else _choose(conn, counts, owners, words, rows)
    ranked = _ranked_sql(terms, chosen, limit)
    found = dict(gathered(conn, "json_array(seq, score)", *ranked)) if terms.ranking else {}
    least = min(found.values(), default=math.inf)
    for word, score in terms.filling.items():
        if len(found) < limit:
            for seq in sorted(gathered(conn, "seq", *_filling_sql(terms, word, chosen, limit)), reverse=True):
                found.setdefault(seq, min(score, least))
    return candidates(conn, sorted(found.items(), key=lambda row: -row[1])[:limit])


def _owner_phrases(conn: sqlite3.Connection, selection: Selection, now: datetime) -> list[str]:
    """An expression for each id of a scope, of the rows that have it; none where the store has never seen one."""
    keys = resolve(conn, selection.scope)
    return [] if keys is None else keys.phrases(_classes(conn, selection, now))


def _all(phrases: Sequence[str]) -> str:
    return "".join(f" AND ({phrase})" for phrase in phrases)


def _choose(conn: sqlite3.Connection, counts: PhraseCounts, owners: list[str], words: list[str], rows: int) -> _Terms:
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


def _ranked_sql(terms: _Terms, chosen: Sql, limit: int) -> Sql:
    """The best rows with words that rank.

    FTS5 can bring them in order, so that looking rows up ends at the limit, but then it scores each of them twice.
    """
    order = "+rank" if terms.is_narrow else "rank"
    sql = f"""
        SELECT memories.seq AS seq, -rank AS score
        FROM memory_index CROSS JOIN memories ON memories.seq = memory_index.rowid
        WHERE memory_index MATCH ? AND {chosen[0]} ORDER BY {order} LIMIT ?
    """  # noqa: S608 - column names only
    return sql, [f"({' OR '.join(terms.ranking)}){terms.scope}", *chosen[1], limit]


def _filling_sql(terms: _Terms, word: str, chosen: Sql, limit: int) -> Sql:
    """The newest rows with a word. FTS5 can go back from the newest row, past many of other scopes."""
    order = "+memories.seq" if terms.is_narrow else "memory_index.rowid"
    sql = f"""
        SELECT memories.seq AS seq FROM memory_index CROSS JOIN memories ON memories.seq = memory_index.rowid
        WHERE memory_index MATCH ? AND {chosen[0]} ORDER BY {order} DESC LIMIT ?
    """  # noqa: S608 - column names only
    return sql, [f"{word}{terms.scope}", *chosen[1], limit]


def _classes(conn: sqlite3.Connection, selection: Selection, now: datetime) -> list[str]:
    """The classes that the memories of a selection can have in the index: see `_sqlite_migrations`."""
    classes = ["t"] if "turn" in selection.kinds else []
    if "fact" in selection.kinds:
        only_now = not selection.everything and selection.as_of is None
        last_end = number(conn, "SELECT max(valid_to) FROM memories WHERE valid_to IS NOT NULL")
        may_be_ended = not only_now or last_end > micros(now)  # few facts end in the future, if any
        classes += ["f", "d"] if may_be_ended else ["f"]
    return classes
