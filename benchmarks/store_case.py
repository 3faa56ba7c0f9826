"""What the processes of the store benchmark share: which data a case is about, where they lie, what they consist of.

Runs in contenders only, as the case comes from their command line. It makes no data: `store_data` does.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import numpy as np

from ollama_async_mem.records import Scope, Selection, Turn
from ollama_async_mem.stores import open_store

from .phases import CASE, expect
from .vectors import recall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ports import MemoryStore
    from ollama_async_mem.records import Candidate

    from .vectors import Matrix, Numbers

MODEL = "benchmark"
SEED: int = CASE["seed"]
LIMIT: int = CASE["limit"]
STORE: str = CASE.get("store", "sqlite")
FOLDER = Path(CASE["folder"])
START = datetime(2026, 1, 1, tzinfo=UTC)


class Data(NamedTuple):
    """How many rows, of how many users in turn: clustered vectors, or those that a model makes of the rows' texts."""

    rows: int
    dimension: int
    users: int = 1
    real: bool = False


DATA = Data(**CASE["data"][CASE["of"]])
PATH = FOLDER / f"{CASE['of']}.db"


class Asked(NamedTuple):
    """Queries as vectors and as texts, and whose memories they are about. Then, of each, the exact answer."""

    vectors: Matrix
    texts: Sequence[str]
    users: Numbers
    numbers: Numbers
    scores: Matrix


def open_data() -> MemoryStore:
    """The store of this case's data, to be opened.

    Raises:
        SystemExit: there is no PostgreSQL.
    """
    if STORE == "sqlite":
        return open_store(PATH)
    if not CASE["postgres"]:
        raise SystemExit("PostgreSQL did not start; what it said stands above, or PG_DSN names a server")

    from ollama_async_mem.stores.postgres import PostgresStore  # noqa: PLC0415 - its process alone needs asyncpg

    url = os.environ.get(CASE["postgres"], CASE["postgres"])  # a variable, where it may have a password in it
    return PostgresStore(url, schema=f"{CASE['schema']}_{CASE['of']}")


def built() -> dict[str, float] | None:
    """The figures of building the data of this case; None where that is not done."""
    path = _beside("json")
    return json.loads(path.read_text()) if path.exists() else None


def asked() -> Asked:
    """The queries for the data of this case."""
    with np.load(_beside("npz")) as kept:
        return Asked(**{name: kept[name].tolist() if name == "texts" else kept[name] for name in Asked._fields})


def keep(queries: Asked, figures: dict[str, float]) -> None:
    """Say that the data are built."""
    columns: dict[str, Any] = queries._asdict()
    np.savez(_beside("npz"), **columns)
    _beside("json").write_text(json.dumps(figures))


def _beside(suffix: str) -> Path:
    return FOLDER / f"{STORE}-{CASE['of']}.{suffix}"


def turn(number: int, text: str) -> Turn:
    """The row of a number, said by its user."""
    at = START + timedelta(seconds=number)
    scope = scope_of(number % DATA.users)
    return Turn(id=str(UUID(int=number)), scope=scope, role="user", text=text, at=at, created_at=at)


def scope_of(user: int) -> Scope:
    """The scope of a user."""
    return Scope(user_id=f"user-{user}")


def selection_of(user: int) -> Selection:
    """All that a user has said."""
    return Selection(scope=scope_of(user))


def numbers_of(found: Sequence[Candidate]) -> Numbers:
    """The numbers of rows that a store found."""
    return np.array([UUID(candidate.memory.id).int for candidate in found], np.int64)


def recalled(queries: Asked, found: Sequence[Numbers]) -> float:
    """The share of the exact answers that were found, over all queries; each must have found as many."""
    limit = min(LIMIT, DATA.rows // DATA.users)
    expect([len(numbers) for numbers in found], [limit] * len(queries.texts))
    answers = zip(found, queries.numbers, queries.scores, strict=True)
    return float(np.mean([recall(numbers, limit, *exact) for numbers, *exact in answers]))
