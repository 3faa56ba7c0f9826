"""Looking after the tables: upkeep and checks. Both run in a session of their own, and may take long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._postgres_reads import read_space
from ._postgres_schema import LEAVES, VECTOR_INDEX
from ._postgres_search import EXACT_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.records import EmbeddingSpace

    from ._postgres_pool import Connection

__all__ = ["check", "optimize"]

_LOCK = 0x6F616D32  # "oam2": one at a time
MAX_INDEXED = 4000  # dimensions of a halfvec in an index
MAX_MEMORY_MB = 1024


async def optimize(conn: Connection) -> None:
    """Tidy the tables, bring the planner's statistics up to date, and make or drop the index of vectors.

    The index exists while there is a scope that is too large to be searched exactly. It makes inserts several times
    slower, so nothing else makes it.
    """
    if not await conn.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        return  # another process is at it
    for table in ("ids", "memories", "events", "jobs", "meta"):
        await conn.execute(f"VACUUM (ANALYZE) {table}")
    largest = await conn.fetchval(_LARGEST) or 0
    is_valid = await conn.fetchval(_IS_VALID)
    space = await read_space(conn)
    parts = [row[0] for row in await conn.fetch(_PARTS)]
    if is_valid is False or (is_valid and largest <= EXACT_ROWS // 2):
        await _drop_index(conn, parts)
        is_valid = None
    if not is_valid and largest > EXACT_ROWS and space and space.dimension <= MAX_INDEXED:
        await _make_index(conn, space, parts)


_LARGEST = """
SELECT max(n) FROM (
  SELECT count(*) AS n FROM memories GROUP BY GROUPING SETS ((user_id), (agent_id), (run_id))
  HAVING coalesce(user_id, agent_id, run_id) <> ''
) AS sizes
"""
_IS_VALID = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{VECTOR_INDEX}')"  # noqa: S608 - our name


_PARTS = f"SELECT substr(relname, 10) FROM pg_class WHERE {LEAVES} AND relispartition"  # noqa: S608 - of memories_...


async def _drop_index(conn: Connection, parts: Sequence[str]) -> None:
    """Drop the index, also one that was left incomplete, with those of parts that do not belong to it yet."""
    await conn.execute(f"DROP INDEX {'' if parts else 'CONCURRENTLY'} IF EXISTS {VECTOR_INDEX}")
    for part in parts:
        await conn.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {VECTOR_INDEX}_{part}")


async def _make_index(conn: Connection, space: EmbeddingSpace, parts: Sequence[str]) -> None:
    """Build the index in the background, with as much memory as it is large, up to a limit.

    Where there are partitions each gets its own, and together they are the index.
    """
    rows = await conn.fetchval("SELECT count(*) FROM memories")
    megabytes = min(MAX_MEMORY_MB, 64 + rows * (space.dimension * 2 + 300) // 1_000_000)
    await conn.execute(f"SET maintenance_work_mem = '{megabytes}MB'")
    what = f"USING hnsw ((embedding::halfvec({space.dimension})) halfvec_ip_ops)"
    if not parts:
        await conn.execute(f"CREATE INDEX CONCURRENTLY {VECTOR_INDEX} ON memories {what}")
        return
    await conn.execute(f"CREATE INDEX {VECTOR_INDEX} ON ONLY memories {what}")
    for part in parts:
        await conn.execute(f"CREATE INDEX CONCURRENTLY {VECTOR_INDEX}_{part} ON memories_{part} {what}")
        await conn.execute(f"ALTER INDEX {VECTOR_INDEX} ATTACH PARTITION {VECTOR_INDEX}_{part}")


async def check(conn: Connection) -> list[str]:
    """Compare rows, vectors, indexed words, links and events, in one snapshot; returns what is wrong."""
    await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    space = await read_space(conn)
    dimension = space.dimension if space else 0
    counts = [(await conn.fetchval(f"SELECT count(*) FROM {sql}"), what) for what, sql in _COUNTS.items()]  # noqa: S608 - written below
    strange = await conn.fetchval("SELECT count(*) FROM memories WHERE vector_dims(embedding) <> $1", dimension)
    indexes = await conn.fetch(_BROKEN_INDEXES)
    await conn.execute("COMMIT")
    counts.append((strange, f"vectors are not of the dimension of the store, {space}"))
    return [f"{n} {what}" for n, what in counts if n] + [f"the index {row[0]} is not complete" for row in indexes]


_BROKEN_INDEXES = """
SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE NOT indisvalid AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'memories'::regclass)
ORDER BY relname
"""
_TURN = "SELECT FROM ids JOIN memories USING (user_id, id) WHERE ids.id = t.id AND kind = 'turn'"
_LINKS = f"unnest(turn_ids) AS t (id) WHERE NOT EXISTS ({_TURN})"
_ALIVE = "SELECT FROM memories AS m WHERE m.user_id = ids.user_id AND m.id = ids.id"
_COUNTS = {
    "vectors have not the length one": "memories WHERE abs(vector_norm(embedding) - 1) > 0.001",
    "memories are not in the keyword index": "memories WHERE words = 0 AND text ~ '[A-Za-z0-9]'",
    "turns name turns, or facts name none that could": "memories WHERE (kind = 'fact') = (turn_ids IS NULL)",
    "memories have an id that is not kept as theirs": """
        memories AS m WHERE NOT EXISTS (SELECT FROM ids WHERE id = m.id AND user_id = m.user_id AND is_there)
    """,
    "ids are kept of memories that are not there": f"ids WHERE is_there AND NOT EXISTS ({_ALIVE})",
    "links are not from a fact to a turn": f"memories AS fact, {_LINKS.replace('turn_ids', 'fact.turn_ids')}",
    "jobs hold what is not a turn": f"jobs, {_LINKS}",
    "events are of no memory that is there or was deleted": """
        events AS e WHERE NOT EXISTS (SELECT FROM memories WHERE user_id = e.user_id AND id = e.memory_id)
        AND NOT EXISTS (SELECT FROM events AS d WHERE d.user_id = e.user_id AND d.memory_id = e.memory_id
          AND d.kind = 'deleted' AND d.seq >= e.seq)
    """,
    "events still have the text of a memory that was deleted": """
        events AS e WHERE coalesce(old, new) IS NOT NULL AND EXISTS (
          SELECT FROM events AS d WHERE d.user_id = e.user_id AND d.memory_id = e.memory_id
          AND d.kind = 'deleted' AND d.seq > e.seq)
    """,
}
