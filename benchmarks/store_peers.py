"""What stores of others do beside ours: the same rows and queries, from an empty folder, in one process each."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .footprint import report
from .phases import CASE
from .store_case import FOLDER, recalled
from .store_data import Made, embedder
from .store_phases import centiles, timed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ollama_async_mem.records import Turn

    from .vectors import Matrix, Numbers

PATH = Path(tempfile.mkdtemp(dir=FOLDER)) / "store"
ALONE = 5  # the part of the rows that one caller inserts, for all to compare


class Peer(NamedTuple):
    """An open store: what inserts a row, what finds some rows of a user, and how many callers it may have at once."""

    insert: Callable[[Turn, Any], Awaitable[None]]
    search: Callable[[int, Any], Awaitable[Numbers]]
    callers: int = 1


async def compare(
    opened: Callable[[], AbstractAsyncContextManager[Peer]], as_taken: Callable[[Matrix], Any] = lambda rows: rows
) -> None:
    """Insert rows, one caller first, then all; open the store again and search. `as_taken` is how it takes vectors."""
    made = Made(await embedder(), CASE["queries"])
    rows = [row for turns, vectors in made.batches() for row in zip(turns, as_taken(vectors), strict=True)]
    queries, few = made.asked(), len(rows) // ALONE
    async with opened() as peer:
        alone_s = await _insert(peer, rows[:few], 1)
        together_s = await _insert(peer, rows[few:], peer.callers)
    async with AsyncExitStack() as stack:
        open_ms, peer = await timed(stack.enter_async_context(opened()))
        asked = list(zip(queries.users.tolist(), as_taken(queries.vectors), strict=True))
        first_ms, _ = await timed(peer.search(*asked[0]))
        found = [await timed(peer.search(*query)) for query in asked]
    report(
        inserts_per_s=(len(rows) - few) / together_s,
        alone_inserts_per_s=few / alone_s,
        open_ms=open_ms,
        first_query_ms=first_ms,
        **centiles([ms for ms, _ in found]),
        recall=recalled(queries, [numbers for _, numbers in found]),
        disk_mb=sum(path.stat().st_size for path in PATH.parent.rglob("*") if path.is_file()) / (1 << 20),
    )
    shutil.rmtree(PATH.parent)


async def _insert(peer: Peer, rows: Sequence[tuple[Turn, Any]], callers: int) -> float:
    """The seconds that it takes when each caller inserts one row after the other."""
    todo = iter(rows)

    async def caller() -> None:
        for row in todo:
            await peer.insert(*row)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller())
    return time.perf_counter() - begin


def payload_of(turn: Turn) -> dict[str, Any]:
    """What mem0 stores beside a vector."""
    created = turn.created_at.isoformat()
    return {"data": turn.text, "user_id": turn.scope.user_id, "role": turn.role, "created_at": created}
