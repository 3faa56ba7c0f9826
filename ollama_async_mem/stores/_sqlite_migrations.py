"""The numbered steps that bring the schema of a file up to date.

Each step runs in one transaction together with its own record. A step that was released is never edited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

__all__ = ["APPLICATION_ID", "DEFAULT_TOKENIZER", "MIGRATIONS", "create_index"]

DEFAULT_TOKENIZER = "porter unicode61 remove_diacritics 2"
APPLICATION_ID = 0x6F616D31  # "oam1" in the file's header: https://www.sqlite.org/fileformat.html#application_id


def m001_initial(conn: sqlite3.Connection) -> None:
    """Create everything of the first release."""
    conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in _INITIAL.split(";\n\n"):
        conn.execute(statement)


# Times are microseconds since 1970 in UTC; `at_offset_s` keeps the local clock of what was said.
# Ids of users, agents and runs are any text at all: `names` interns their bytes, and the index only sees numbers.
# `memory_texts` is what the keyword index holds, so that a row leaves the index by the words with which it came.
# A token in its column `scope` joins the class of a memory (t turn, f fact that holds, d fact that is superseded)
# with one of its ids (u user, a agent, r run): a filter is then an AND of tokens inside the index.
_INITIAL = """
CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL);

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE names (key INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);

CREATE TABLE scopes (
  id INTEGER PRIMARY KEY,
  user_key INTEGER NOT NULL, agent_key INTEGER NOT NULL, run_key INTEGER NOT NULL,  -- 0 is none
  removals INTEGER NOT NULL DEFAULT 0,
  UNIQUE (user_key, agent_key, run_key)
);

CREATE INDEX scopes_by_agent ON scopes (agent_key);

CREATE INDEX scopes_by_run ON scopes (run_key);

CREATE TABLE memories (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: what is newer has a higher one
  id TEXT NOT NULL UNIQUE,
  scope_id INTEGER NOT NULL REFERENCES scopes (id),
  kind TEXT NOT NULL CHECK (kind IN ('turn', 'fact')),
  role TEXT, speaker TEXT, text TEXT NOT NULL, quote TEXT,
  terms TEXT,  -- what is indexed, where it is not just the speaker and the text
  at INTEGER NOT NULL, at_offset_s INTEGER NOT NULL, created_at INTEGER NOT NULL, valid_to INTEGER,
  metadata BLOB
);

CREATE INDEX memories_by_time ON memories (scope_id, at, id);

CREATE INDEX memories_current ON memories (scope_id, kind, valid_to);

CREATE TABLE vectors (
  seq INTEGER PRIMARY KEY REFERENCES memories (seq) ON DELETE CASCADE,
  embedding BLOB NOT NULL  -- float32, little endian, length one
);

CREATE TABLE links (
  fact_seq INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  turn_seq INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
  PRIMARY KEY (fact_seq, position)
) WITHOUT ROWID;

CREATE INDEX links_by_turn ON links (turn_seq);

CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  scope_id INTEGER NOT NULL REFERENCES scopes (id),
  state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'dead')),
  attempts INTEGER NOT NULL DEFAULT 0,
  lease_until INTEGER NOT NULL DEFAULT 0, next_try_at INTEGER NOT NULL DEFAULT 0,
  last_error TEXT
);

CREATE INDEX jobs_queued ON jobs (seq) WHERE state = 'queued';

CREATE TABLE job_turns (
  job_seq INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  turn_seq INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
  PRIMARY KEY (job_seq, position)
) WITHOUT ROWID;

CREATE INDEX job_turns_by_turn ON job_turns (turn_seq);

CREATE VIEW memory_texts AS
SELECT seq,
  coalesce(terms, CASE WHEN speaker IS NULL THEN text ELSE speaker || ' ' || text END) AS body,
  class || '0 ' || class || 'u' || user_key || ' ' || class || 'a' || agent_key || ' ' || class || 'r' || run_key
    AS scope
FROM (
  SELECT m.*, s.user_key, s.agent_key, s.run_key,
    CASE WHEN kind = 'turn' THEN 't' WHEN valid_to IS NULL THEN 'f' ELSE 'd' END AS class
  FROM memories m JOIN scopes s ON s.id = m.scope_id
);

CREATE VIRTUAL TABLE memory_index USING fts5 (
  body, scope,
  content = 'memory_texts', content_rowid = 'seq', tokenize = 'porter unicode61 remove_diacritics 2'
);

INSERT INTO memory_index (memory_index, rank) VALUES ('rank', 'bm25(1.0, 0.0)')
"""


def m002_jobs_given_back(conn: sqlite3.Connection) -> None:
    """Tell the number of claims from that of attempts, and find the jobs that are not done without the others."""
    conn.execute("ALTER TABLE jobs RENAME COLUMN attempts TO claims")
    conn.execute("ALTER TABLE jobs ADD COLUMN returned INTEGER NOT NULL DEFAULT 0")
    conn.execute("CREATE INDEX jobs_unfinished ON jobs (seq) WHERE state <> 'done'")


def m003_histories(conn: sqlite3.Connection) -> None:
    """Let memories expire and keep their history; index what is listed and searched by; forget jobs that are done."""
    for statement in _HISTORIES.split(";\n\n"):
        conn.execute(statement)


# An event is about a memory that may be gone. When it was added follows from its row, and after that from `added_at`
# of the event that it was deleted. Metadata becomes text, for newer versions of SQLite read bytes as JSONB. The tokens
# of scopes get a space at each end, by which an index of trigrams tells them apart.
_HISTORIES = """
ALTER TABLE memories ADD COLUMN expires_at INTEGER;

UPDATE memories SET metadata = CAST(metadata AS TEXT) WHERE metadata IS NOT NULL;

ALTER TABLE scopes DROP COLUMN removals;

DROP INDEX memories_current;

CREATE INDEX memories_by_kind ON memories (scope_id, kind, valid_to, expires_at);

CREATE INDEX memories_ended ON memories (valid_to) WHERE valid_to IS NOT NULL;

CREATE INDEX memories_expiring ON memories (expires_at) WHERE expires_at IS NOT NULL;

CREATE INDEX memories_of_all_by_time ON memories (at, id);

CREATE TABLE events (
  seq INTEGER PRIMARY KEY,
  memory_id TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('updated', 'superseded', 'deleted')),
  at INTEGER NOT NULL, added_at INTEGER,
  old TEXT, new TEXT, actor TEXT, cause TEXT, by_id TEXT
);

CREATE INDEX events_by_memory ON events (memory_id);

INSERT INTO meta (key, value)
SELECT 'tokenize', 'porter unicode61 remove_diacritics 2' WHERE EXISTS (SELECT 1 FROM memories);

INSERT INTO meta (key, value)
SELECT 'newest_job_done', id FROM jobs WHERE state = 'done' ORDER BY id DESC LIMIT 1;

DELETE FROM jobs WHERE state = 'done';

DROP INDEX jobs_unfinished;

DROP VIEW memory_texts;

CREATE VIEW memory_texts AS
SELECT seq,
  coalesce(terms, CASE WHEN speaker IS NULL THEN text ELSE speaker || ' ' || text END) AS body,
  ' ' || class || '0 ' || class || 'u' || user_key || ' ' || class || 'a' || agent_key
    || ' ' || class || 'r' || run_key || ' ' AS scope
FROM (
  SELECT m.seq, m.terms, m.speaker, m.text, s.user_key, s.agent_key, s.run_key,
    CASE WHEN kind = 'turn' THEN 't' WHEN valid_to IS NULL THEN 'f' ELSE 'd' END AS class
  FROM memories m JOIN scopes s ON s.id = m.scope_id
)
"""


def m004_codes(conn: sqlite3.Connection) -> None:
    """Log what changes in rows that searches hold in memory, and make room for 1-bit codes."""
    for statement in _CODES.split(";\n\n"):
        conn.execute(statement)


# Triggers, so that no statement can forget the log. `AUTOINCREMENT` remembers the last entry when all were taken out.
# A block has the rows of a range of `seq`, in columns; it is what `_sqlite_codes` made of them, and may be dropped.
_CODES = """
CREATE TABLE changes (n INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL);

CREATE TRIGGER memories_removed AFTER DELETE ON memories
BEGIN INSERT INTO changes (seq) VALUES (old.seq); END;

CREATE TRIGGER memories_ending AFTER UPDATE OF valid_to, expires_at ON memories
BEGIN INSERT INTO changes (seq) VALUES (old.seq); END;

CREATE TRIGGER vectors_replaced AFTER UPDATE OF embedding ON vectors
BEGIN INSERT INTO changes (seq) VALUES (old.seq); END;

CREATE TABLE codings (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  mean BLOB NOT NULL,  -- float32, little endian
  listed INTEGER NOT NULL DEFAULT 0, scored INTEGER NOT NULL DEFAULT 0,  -- how many rows codes must choose
  tried_rows INTEGER NOT NULL DEFAULT 0  -- how many there were when that was found
);

CREATE TABLE code_blocks (
  first INTEGER PRIMARY KEY, last INTEGER NOT NULL, size INTEGER NOT NULL,
  seqs BLOB NOT NULL, scopes BLOB NOT NULL, facts BLOB NOT NULL, at BLOB NOT NULL, until BLOB NOT NULL,
  codes BLOB NOT NULL
)
"""


def m005_dates(conn: sqlite3.Connection) -> None:
    """Keep the dates that texts name; let facts be reinforced, and find the jobs of a scope."""
    for statement in _DATES.split(";\n\n"):
        conn.execute(statement)


# A job that somebody holds, and one whose lease ended, has `lease_until` set.
_DATES = """
ALTER TABLE memories ADD COLUMN dates TEXT;

CREATE TABLE new_events (
  seq INTEGER PRIMARY KEY,
  memory_id TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('updated', 'reinforced', 'superseded', 'deleted')),
  at INTEGER NOT NULL, added_at INTEGER,
  old TEXT, new TEXT, actor TEXT, cause TEXT, by_id TEXT
);

INSERT INTO new_events SELECT seq, memory_id, kind, at, added_at, old, new, actor, cause, by_id FROM events;

DROP TABLE events;

ALTER TABLE new_events RENAME TO events;

CREATE INDEX events_by_memory ON events (memory_id);

INSERT INTO meta (key, value) SELECT 'index_merge', 'due' WHERE EXISTS (SELECT 1 FROM events WHERE kind = 'deleted');

CREATE INDEX jobs_leased ON jobs (lease_until) WHERE lease_until > 0;

CREATE INDEX jobs_of_scope ON jobs (scope_id, seq) WHERE state = 'queued'
"""


def m006_prompts(conn: sqlite3.Connection) -> None:
    """Let a job have instructions of its own."""
    conn.execute("ALTER TABLE jobs ADD COLUMN prompt TEXT")


def m007_logged_changes(conn: sqlite3.Connection) -> None:
    """Log each change of a row, not only those that vectors and codes are concerned with."""
    conn.execute("DROP TRIGGER memories_ending")
    conn.execute("""
        CREATE TRIGGER memories_changed AFTER UPDATE ON memories
        BEGIN INSERT INTO changes (seq) VALUES (old.seq); END
    """)


def create_index(conn: sqlite3.Connection, tokenize: str) -> None:
    """Make the keyword index anew, for a file without memories."""
    conn.execute("DROP TABLE memory_index")
    quoted = tokenize.replace("'", "''")
    conn.execute(f"""
        CREATE VIRTUAL TABLE memory_index USING fts5 (
          body, scope, content = 'memory_texts', content_rowid = 'seq', tokenize = '{quoted}'
        )
    """)
    conn.execute("INSERT INTO memory_index (memory_index, rank) VALUES ('rank', 'bm25(1.0, 0.0)')")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    m001_initial,
    m002_jobs_given_back,
    m003_histories,
    m004_codes,
    m005_dates,
    m006_prompts,
    m007_logged_changes,
)
