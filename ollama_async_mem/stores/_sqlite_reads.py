"""Reading memories: scopes, rows, listings and the keyword index. Each function runs inside one snapshot."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from ollama_async_mem.errors import ConfigError, RecordNotFound
from ollama_async_mem.records import Candidate, Counts, EmbeddingSpace, Fact, MemoryRecord, Page, Scope, Turn

from ._text import match_phrases

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from ollama_async_mem.records import Kind

__all__ = [
    "Filter",
    "candidates",
    "count",
    "find_seq",
    "from_micros",
    "get",
    "intern_name",
    "keyword_candidates",
    "kind_params",
    "list_page",
    "micros",
    "read_scope",
    "read_space",
    "resolve",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = (1 << 63) - 1
_CLASSES: dict[str, str] = {"turn": "t", "fact": "f"}


class Filter(NamedTuple):
    """A scope as the numbers of its ids; None is anything."""

    user_key: int | None
    agent_key: int | None
    run_key: int | None

    def sql(self, column: str = "scope_id") -> str:
        """A condition on a column that holds the rows of scopes, with a `?` for each of `keys`."""
        columns = [f"{name} = ?" for name, key in zip(self._fields, self, strict=True) if key is not None]
        return f"{column} IN (SELECT id FROM scopes WHERE {' AND '.join(columns)})" if columns else "TRUE"  # noqa: S608 - column names only

    @property
    def keys(self) -> list[int]:
        """The numbers that are set."""
        return [key for key in self if key is not None]

    def match(self, classes: Sequence[str]) -> str:
        """The condition as an FTS5 expression on the index's scope tokens."""
        tokens = [f"{letter}{key}" for letter, key in zip("uar", self, strict=True) if key is not None]
        return " AND ".join(f"scope : ({' OR '.join(c + token for c in classes)})" for token in tokens or ["0"])


def micros(at: datetime) -> int:
    """Microseconds since 1970 of a timezone-aware datetime.

    Raises:
        OverflowError: it lies outside the years 1 to 9999 in UTC.
    """
    return (at.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


def from_micros(at: int, offset_s: int = 0) -> datetime:
    """The other way, in UTC or on a clock that is `offset_s` ahead of it."""
    zone = timezone(timedelta(seconds=offset_s)) if offset_s else UTC
    return (_EPOCH + timedelta(microseconds=at)).astimezone(zone)


def intern_name(name: str) -> bytes:
    """An id of a user, agent or run as bytes: any text, each distinct."""
    return name.encode("utf-8", "surrogatepass")


def resolve(conn: sqlite3.Connection, scope: Scope) -> Filter | None:
    """Look the ids of a scope up; None when the store has never seen one of them."""
    keys: list[int | None] = []
    for name in (scope.user_id, scope.agent_id, scope.run_id):
        found = name is None or conn.execute("SELECT key FROM names WHERE name = ?", (intern_name(name),)).fetchone()
        if found is None:
            return None
        keys.append(None if found is True else found[0])
    return Filter(*keys)


def read_scope(conn: sqlite3.Connection, scope_id: int) -> Scope:
    """The scope of a row of `scopes`."""
    return _scope(conn.execute(_SCOPE, (scope_id,)).fetchone())


_SCOPE = """
SELECT
  (SELECT name FROM names WHERE key = user_key),
  (SELECT name FROM names WHERE key = agent_key),
  (SELECT name FROM names WHERE key = run_key)
FROM scopes WHERE id = ?
"""


def _scope(names: Sequence[bytes | None]) -> Scope:
    return Scope(*(None if name is None else name.decode("utf-8", "surrogatepass") for name in names))


def read_space(conn: sqlite3.Connection) -> EmbeddingSpace | None:
    """Which vectors the store holds."""
    row = conn.execute("SELECT value FROM meta WHERE key = 'embedding_space'").fetchone()
    return msgspec.json.decode(row[0], type=EmbeddingSpace) if row else None


def find_seq(conn: sqlite3.Connection, memory_id: str) -> int:
    """The row of a memory.

    Raises:
        RecordNotFound: there is none with this id.
    """
    try:
        row = conn.execute("SELECT seq FROM memories WHERE id = ?", (memory_id,)).fetchone()
    except UnicodeEncodeError:  # a lone surrogate, which no stored id has
        row = None
    if row is None:
        raise RecordNotFound(memory_id)
    return cast("int", row[0])


def get(conn: sqlite3.Connection, memory_id: str) -> MemoryRecord:
    """Read one memory."""
    seq = find_seq(conn, memory_id)
    return load(conn, [seq])[seq]


def load(conn: sqlite3.Connection, seqs: Sequence[int]) -> dict[int, MemoryRecord]:
    """Read memories by row."""
    wanted = (msgspec.json.encode(list(seqs)).decode(),)
    sources: dict[int, list[str]] = {}
    for fact_seq, turn_id in conn.execute(_LOAD_LINKS, wanted):
        sources.setdefault(fact_seq, []).append(turn_id)
    return {row[0]: _record(row, tuple(sources.get(row[0], ()))) for row in conn.execute(_LOAD, wanted)}


_LOAD = """
SELECT seq, memories.id, kind, role, speaker, text, quote, at, at_offset_s, created_at, valid_to, metadata,
  (SELECT name FROM names WHERE key = user_key),
  (SELECT name FROM names WHERE key = agent_key),
  (SELECT name FROM names WHERE key = run_key)
FROM memories JOIN scopes ON scopes.id = scope_id
WHERE seq IN (SELECT value FROM json_each(?))
"""

_LOAD_LINKS = """
SELECT fact_seq, memories.id FROM links JOIN memories ON seq = turn_seq
WHERE fact_seq IN (SELECT value FROM json_each(?))
ORDER BY fact_seq, position
"""


def _record(row: tuple[Any, ...], turn_ids: tuple[str, ...]) -> MemoryRecord:
    """A row of `_LOAD` as a record."""
    _, memory_id, kind, role, speaker, text, quote, at, offset_s, created_at, valid_to, metadata, *names = row
    common: dict[str, Any] = {
        "id": memory_id,
        "scope": _scope(names),
        "text": text,
        "at": from_micros(at, offset_s),
        "created_at": from_micros(created_at),
        "metadata": msgspec.json.decode(metadata) if metadata else {},
    }
    if kind == "turn":
        return Turn(role=role, speaker=speaker, **common)
    ended = None if valid_to is None else from_micros(valid_to)
    return Fact(quote=quote, turn_ids=turn_ids, valid_to=ended, **common)


def candidates(conn: sqlite3.Connection, scored: Iterable[tuple[int, float]]) -> list[Candidate]:
    """Read the memories of scored rows, in the order given."""
    scores = dict(scored)
    memories = load(conn, list(scores))
    return [Candidate(memories[seq], score) for seq, score in scores.items()]


def keyword_candidates(
    conn: sqlite3.Connection, scope: Scope, query: str, kinds: Sequence[Kind], limit: int
) -> list[Candidate]:
    """Ask the keyword index. FTS5's bm25 is negative, the better the lower: https://www.sqlite.org/fts5.html#the_bm25_function."""
    phrases, keys = match_phrases(query), resolve(conn, scope)
    if not phrases or not kinds or keys is None:
        return []
    match = f"body : ({phrases}) AND {keys.match([_CLASSES[kind] for kind in kinds])}"
    rows = conn.execute(
        "SELECT rowid, -rank FROM memory_index WHERE memory_index MATCH ? ORDER BY rank LIMIT ?", (match, limit)
    )
    return candidates(conn, rows)


def count(conn: sqlite3.Connection, scope: Scope) -> Counts:
    """Count the memories of a scope by kind, superseded facts among them."""
    keys = resolve(conn, scope)
    if keys is None:
        return Counts(0, 0)
    sql = f"SELECT kind, count(*) FROM memories WHERE {keys.sql()} GROUP BY kind"  # noqa: S608 - column names only
    kinds = dict(conn.execute(sql, keys.keys).fetchall())
    return Counts(kinds.get("turn", 0), kinds.get("fact", 0))


def list_page(conn: sqlite3.Connection, scope: Scope, kinds: Sequence[Kind], limit: int, cursor: str | None) -> Page:
    """Read a page, newest first; the cursor is the place after its last memory, so inserts do not shift it."""
    before, keys = _decode_cursor(cursor), resolve(conn, scope)
    if keys is None:
        return Page(())
    rows = conn.execute(list_sql(keys), (*keys.keys, *kind_params(kinds), *before, limit + 1)).fetchall()
    shown = rows[:limit]
    memories = load(conn, [row[0] for row in shown])
    more = _encode_cursor(*shown[-1][1:]) if len(rows) > limit else None
    return Page(tuple(memories[row[0]] for row in shown), more)


def list_sql(keys: Filter) -> str:
    """The query for the rows of a page."""
    return f"""
        SELECT seq, at, id FROM memories
        WHERE {keys.sql()} AND kind IN (?, ?) AND (at, id) < (?, ?) ORDER BY at DESC, id DESC LIMIT ?
    """  # noqa: S608 - column names only


def kind_params(kinds: Sequence[Kind]) -> tuple[str | None, str | None]:
    """Kinds for `kind IN (?, ?)`; NULL matches nothing."""
    first, second, *_ = (*dict.fromkeys(kinds), None, None)
    return first, second


def _encode_cursor(at: int, memory_id: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((at, memory_id))).decode()


def _decode_cursor(cursor: str | None) -> tuple[int, str]:
    if cursor is None:
        return _LATEST, ""
    try:
        return msgspec.json.decode(base64.b64decode(cursor, b"-_", validate=True), type=tuple[int, str])
    except (msgspec.MsgspecError, binascii.Error, ValueError) as exc:
        raise ConfigError(f"the cursor {cursor!r} is not one that a page of this listing had") from exc
