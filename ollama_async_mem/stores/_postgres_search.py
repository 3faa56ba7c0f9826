"""Dense and keyword search. Scope, kinds, filters and times choose the rows before the best of them are taken."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.records import EmbeddingSpace

from ._checks import require_space
from ._postgres_filters import Values
from ._postgres_rows import COLUMNS, as_candidates, pack
from ._postgres_schema import VECTOR_INDEX
from ._postgres_selection import scope_sql, selection_sql
from ._postgres_text import query_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Candidate, Scope, Selection

    from ._postgres_pool import Connection

__all__ = ["EXACT_ROWS", "dense_candidates", "keyword_candidates"]

EXACT_ROWS = 20_000  # a millisecond for each thousand; above this the index is faster, also where it finds few
MORE_ROWS = 20  # how many the index proposes besides twice as many as are asked for
MATCHED_ROWS = 50_000  # beyond them, the most frequent words of a query are left out
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
    search = _by_index if await _is_large(conn, selection, now) else _exactly
    return await search(conn, selection, vector, limit, now)


async def _is_large(conn: Connection, selection: Selection, now: datetime) -> bool:
    """Whether the index of vectors is there, and a selection is worth to be searched with it.

    Without a filter the scope alone is counted, which needs no rows but those of an index.
    """
    values = Values()
    has_filter = selection.where is not None or selection.as_of is not None or len(set(selection.kinds)) == 1
    condition = selection_sql(selection, values, now) if has_filter else scope_sql(selection.scope, values)
    sql = f"""
        SELECT CASE WHEN to_regclass('{VECTOR_INDEX}') IS NULL THEN FALSE ELSE (
          SELECT count(*) > {EXACT_ROWS} FROM (SELECT FROM memories WHERE {condition} LIMIT {EXACT_ROWS + 1}) AS sample
        ) END
    """  # noqa: S608 - column names and slots only
    return bool(await conn.fetchval(sql, *values))


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
        SELECT {COLUMNS}, score FROM best JOIN memories USING (seq) ORDER BY score DESC, seq
    """  # noqa: S608 - column names and slots only
    return as_candidates(await conn.fetch(sql, *values))


async def keyword_candidates(
    conn: Connection, selection: Selection, query: str, limit: int, now: datetime
) -> list[Candidate]:
    """Return the memories that share words with a query, scored by BM25 over the memories of the scope."""
    text = query_text(query)
    if not text:
        return []
    stems = [row[0] for row in await conn.fetch("SELECT lexeme FROM unnest(to_tsvector('words', $1))", text)]
    words = await _telling(conn, selection.scope, stems)
    if not words:
        return []
    values = Values()
    queries = [asked(word) for word in words]
    condition, scope = selection_sql(selection, values, now), scope_sql(selection.scope, values)
    sql = _BM25.format(
        columns=COLUMNS,
        condition=condition,
        scope=scope,
        each=values.add(queries, "text[]"),
        any=values.add(" | ".join(queries), "tsquery"),
        sampled=SAMPLED_ROWS,
        limit=limit,
    )
    return as_candidates(await conn.fetch(sql, *values))


async def _telling(conn: Connection, scope: Scope, words: Sequence[str]) -> Sequence[str]:
    """The words that are worth looking for: without the most frequent ones, where all would match too many rows.

    How many rows a word matches is what the planner expects, from the statistics that the server gathers by itself.
    """
    if len(words) <= 1:
        return words
    values = Values()
    condition = scope_sql(scope, values)
    matching = f"SELECT FROM memories WHERE {condition} AND terms @@ "
    each = " UNION ALL ".join(matching + values.add(asked(word), "tsquery") for word in words)
    plan = msgspec.json.decode(await conn.fetchval(f"EXPLAIN (FORMAT JSON) {each}", *values))
    rows = [part["Plan Rows"] for part in plan[0]["Plan"]["Plans"]]
    rarest = sorted(zip(rows, words, strict=True))
    sums = accumulate(count for count, _ in rarest)
    return [word for total, (_, word) in zip(sums, rarest, strict=True) if total <= MATCHED_ROWS] or [rarest[0][1]]


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
    SELECT reltuples FROM pg_class WHERE oid = 'memories'::regclass
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
SELECT {columns}, score FROM best JOIN memories USING (seq) ORDER BY score DESC, seq
"""
