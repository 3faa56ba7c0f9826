"""Dense and keyword search. Scope, kinds, filters and times choose the rows before the best of them are taken."""

from __future__ import annotations

import logging
from itertools import accumulate
from typing import TYPE_CHECKING, cast

import msgspec

from ollama_async_mem.records import EmbeddingSpace

from ._checks import require_space
from ._postgres_filters import Values
from ._postgres_rows import COLUMNS, as_candidates, pack
from ._postgres_schema import LEAVES, VECTOR_INDEX
from ._postgres_selection import scope_sql, selection_sql
from ._postgres_text import query_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Candidate, Scope, Selection

    from ._postgres_pool import Connection
    from ._postgres_rows import Row

__all__ = ["EXACT_ROWS", "SLOW_S", "dense_candidates", "keyword_candidates", "warn_without_index"]

_LOGGER = logging.getLogger(__name__)

EXACT_ROWS = 20_000  # a millisecond for each thousand
SLOW_S = 0.02  # no exact search of so many takes less
EXACT_SHARE = 25  # times the root of all rows: the rarer a selection is in the index, the longer that is scanned
MORE_ROWS = 20  # how many the index proposes besides twice as many as are asked for
MATCHED_ROWS = 30_000  # how many the words of a query that rank may match together, at some 4 microseconds for each
MOST_FOR_ONE = 200_000  # how many the rarest of them may match
LEAST_SCORE = 1e-6
SAMPLED_ROWS = 20_000  # what the mean length of texts is taken from


async def dense_candidates(
    conn: Connection,
    selection: Selection,
    vector: Vector,
    *,
    model: str,
    bound: EmbeddingSpace | None,
    limit: int,
    now: datetime,
    where: str,
) -> list[Candidate]:
    """Return the memories nearest to a vector of length one; `bound` is the space of the store's vectors.

    Raises:
        EmbeddingMismatch: the vector is of another space.
    """
    if bound is None:
        return []
    require_space(bound, EmbeddingSpace(model, vector.size), where)
    found = await _by_index(conn, selection, vector, limit, now) if await _is_large(conn, selection, now) else []
    # A scan of the index gives up some time; then too few of what it came by passed the filter
    return found if len(found) >= limit else await _exactly(conn, selection, vector, limit, now)


async def _is_large(conn: Connection, selection: Selection, now: datetime) -> bool:
    """Whether the index of vectors is there, and a selection is worth to be searched with it.

    Without a filter the scope alone is counted, which needs no rows but those of an index.
    """
    values = Values()
    has_filter = selection.where is not None or selection.as_of is not None or len(set(selection.kinds)) == 1
    condition = selection_sql(selection, values, now) if has_filter else scope_sql(selection.scope, values)
    sql = f"""
        WITH bound AS (
          SELECT greatest({EXACT_ROWS}, {EXACT_SHARE} * sqrt({_ROWS}))::bigint AS n WHERE {_IS_INDEXED}
        )
        SELECT (SELECT count(*) FROM (SELECT FROM memories WHERE {condition} LIMIT n + 1) AS sample) > n FROM bound
    """  # noqa: S608 - column names and slots only
    return bool(await conn.fetchval(sql, *values))


_ROWS = f"(SELECT sum(greatest(reltuples, 0)) FROM pg_class WHERE {LEAVES})"  # noqa: S608 - our names
_IS_INDEXED = f"EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('{VECTOR_INDEX}') AND indisvalid)"


async def warn_without_index(conn: Connection, scope: Scope, where: str) -> bool:
    """Log a warning where a scope is too large to be searched without the index of vectors, and that is not there."""
    values = Values()
    sql = f"""
        SELECT NOT {_IS_INDEXED} AND (SELECT count(*) FROM (
          SELECT FROM memories WHERE {scope_sql(scope, values)} LIMIT {EXACT_ROWS + 1}
        ) AS sample) > {EXACT_ROWS}
    """  # noqa: S608 - column names and slots only
    is_slow = bool(await conn.fetchval(sql, *values))
    if is_slow:
        _LOGGER.warning(
            "the store %s is searched slowly: more than %d memories of a scope are compared one by one, for there is "
            "no index of vectors; run `ollama-async-mem store optimize %s` once",
            where,
            EXACT_ROWS,
            where,
        )
    return is_slow


async def _exactly(
    conn: Connection, selection: Selection, vector: Vector, limit: int, now: datetime
) -> list[Candidate]:
    values = Values()
    condition, query = selection_sql(selection, values, now), values.add(pack(vector), "vector")
    sql = f"""
        SELECT {COLUMNS}, -(embedding <#> {query}) AS score FROM memories WHERE {condition}
        ORDER BY embedding <#> {query}, seq LIMIT {limit:d}
    """  # noqa: S608 - column names and slots only
    return as_candidates(await conn.fetch(sql, *values))


async def _by_index(
    conn: Connection, selection: Selection, vector: Vector, limit: int, now: datetime
) -> list[Candidate]:
    """The index holds halves of the precision, so more rows than are wanted come from it and get their exact score."""
    values = Values()
    condition, query = selection_sql(selection, values, now), values.add(pack(vector), "vector")
    half = f"halfvec({vector.size})"
    sql = f"""
        WITH near AS MATERIALIZED (
          SELECT seq, embedding FROM memories WHERE {condition}
          ORDER BY embedding::{half} <#> {query}::{half} LIMIT {2 * limit + MORE_ROWS:d}
        ), best AS (
          SELECT seq, -(embedding <#> {query}) AS score FROM near ORDER BY embedding <#> {query}, seq LIMIT {limit:d}
        )
        SELECT {COLUMNS}, score FROM best JOIN memories USING (seq)
        WHERE {scope_sql(selection.scope, values)} ORDER BY score DESC, seq
    """  # noqa: S608 - column names and slots only
    return as_candidates(await conn.fetch(sql, *values))


async def keyword_candidates(
    conn: Connection, selection: Selection, query: str, limit: int, now: datetime
) -> list[Candidate]:
    """Return the memories that share words with a query, scored by BM25 over the memories of the scope.

    Words that would match very many do not rank. Memories that have only such fill what the others leave, newest first.
    """
    text = query_text(query)
    if not text:
        return []
    stems = [row[0] for row in await conn.fetch("SELECT lexeme FROM unnest(to_tsvector('words', $1))", text)]
    ranking, filling = await _divide(conn, selection.scope, stems)
    rows = await _ranked(conn, selection, ranking, limit, now) if ranking else []
    if filling and len(rows) < limit:
        found = [row["id"] for row in rows]
        rows = [*rows, *await _filled(conn, selection, filling, found, limit=limit - len(rows), now=now)]
    return as_candidates(rows)


async def _divide(conn: Connection, scope: Scope, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide words into those that rank, the rarest as far as they match few rows, and the others.

    How many rows a word matches is what the planner expects, from the statistics that the server gathers by itself.
    """
    if not words:
        return [], []
    values = Values()
    matching = f"(SELECT FROM memories WHERE {scope_sql(scope, values)} AND terms @@ "
    whole = "OFFSET 0)"  # keeps the plan of each as a whole
    each = " UNION ALL ".join(f"{matching}{values.add(asked(word), 'tsquery')} {whole}" for word in words)
    plan = msgspec.json.decode(await conn.fetchval(f"EXPLAIN (FORMAT JSON) {each}", *values))[0]["Plan"]
    parts = [plan] if len(words) == 1 else plan["Plans"]
    counted = sorted((part["Plan Rows"], word) for part, word in zip(parts, words, strict=True))
    sums = list(accumulate(count for count, _ in counted))
    fitting = sum(total <= MATCHED_ROWS for total in sums) or int(sums[0] <= MOST_FOR_ONE)
    rarest = [word for _, word in counted]
    return rarest[:fitting], rarest[fitting:]


async def _ranked(
    conn: Connection, selection: Selection, words: Sequence[str], limit: int, now: datetime
) -> Sequence[Row]:
    values = Values()
    queries = [asked(word) for word in words]
    condition, scope = selection_sql(selection, values, now), scope_sql(selection.scope, values)
    sql = _BM25.format(
        columns=COLUMNS,
        condition=condition,
        scope=scope,
        leaves=LEAVES,
        each=values.add(queries, "text[]"),
        any=values.add(" | ".join(queries), "tsquery"),
        sampled=SAMPLED_ROWS,
        limit=limit,
    )
    return cast("Sequence[Row]", await conn.fetch(sql, *values))


async def _filled(
    conn: Connection, selection: Selection, words: Sequence[str], found: Sequence[str], *, limit: int, now: datetime
) -> Sequence[Row]:
    """The newest memories that have one of some words, but for those that were found."""
    values = Values()
    condition, query = selection_sql(selection, values, now), " | ".join(map(asked, words))
    sql = f"""
        SELECT {COLUMNS}, {LEAST_SCORE} AS score FROM memories WHERE {condition}
          AND terms @@ {values.add(query, "tsquery")} AND id <> ALL ({values.add(found, "text[]")})
        ORDER BY seq DESC LIMIT {limit:d}
    """  # noqa: S608 - column names and slots only
    return cast("Sequence[Row]", await conn.fetch(sql, *values))


def asked(word: str) -> str:
    """A word, which has nothing but letters, digits and marks, as a query of PostgreSQL."""
    return f"'{word}'"


# For a query of one word, ts_rank with equal weights is the sum of 1/i^2 up to the number of times the word is there,
# divided by pi^2/6: calc_rank_or in https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/tsrank.c.
# What is missing to 1 is close to 1/(n + 1/2), so that n is found by rounding. BM25 is that of
# https://www.nowpublishers.com/article/Details/INR-019, section 3.5.1, with k1 = 1.2 and b = 0.75.
_BM25 = """
WITH lengths AS (
  SELECT count(*) AS n, coalesce(avg(words), 0) + 0.01 AS mean
  FROM (SELECT words FROM memories WHERE {scope} LIMIT {sampled}) AS sample
), texts AS (
  SELECT mean, CASE WHEN n < {sampled} THEN n ELSE greatest(n, (
    SELECT sum(greatest(reltuples, 0)) FROM pg_class WHERE {leaves}
  )) END AS n FROM lengths
), found AS MATERIALIZED (
  SELECT seq, words, word, round(1 / (pi() ^ 2 / 6 * (1 - ts_rank('{{1,1,1,1}}', terms, word))) - 0.5) AS times
  FROM memories, unnest({each}::tsquery[]) AS word WHERE {condition} AND terms @@ {any} AND terms @@ word
), rarity AS (
  SELECT word, ln(1 + greatest(n - count(*) + 0.5, 0) / (count(*) + 0.5)) AS idf FROM found, texts GROUP BY word, n
), best AS (
  SELECT seq, sum(idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * words / mean))) AS score
  FROM found JOIN rarity USING (word), texts GROUP BY seq ORDER BY score DESC, seq LIMIT {limit}
)
SELECT {columns}, score FROM best JOIN memories USING (seq) WHERE {scope} ORDER BY score DESC, seq
"""
