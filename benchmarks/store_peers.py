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


class Peer(NamedTuple):
    """An open store: what inserts rows, what finds some rows of a user, and how many callers it may have at once."""

    insert: Callable[[Sequence[Turn], Sequence[Any]], Awaitable[None]]
    search: Callable[[int, Any], Awaitable[Numbers]]
    callers: int = 1


async def compare(
    opened: Callable[[], AbstractAsyncContextManager[Peer]], as_taken: Callable[[Matrix], Sequence[Any]] = list
) -> None:
    """Insert all rows, open the store again and search. `as_taken` is how it takes vectors.

    Most rows come in batches. Those that come one by one find these there: some from one caller, then more from all.
    """
    made = Made(await embedder(), CASE["queries"])
    *bulk, last = [(turns, as_taken(vectors)) for turns, vectors in made.batches()]
    singles = [([turn], [vector]) for turn, vector in zip(*last, strict=True)]
    few = len(singles) // 5
    async with opened() as peer:
        figures = {
            "bulk_rows_per_s": await _speed(peer, bulk),
            "alone_inserts_per_s": await _speed(peer, singles[:few]),
            "inserts_per_s": await _speed(peer, singles[few:], peer.callers),
        }
    queries = made.asked()
    asked = list(zip(queries.users.tolist(), as_taken(queries.vectors), strict=True))
    async with AsyncExitStack() as stack:
        open_ms, peer = await timed(stack.enter_async_context(opened()))
        first_ms, _ = await timed(peer.search(*asked[0]))
        found = [await timed(peer.search(*query)) for query in asked]
    report(
        **figures,
        open_ms=open_ms,
        first_query_ms=first_ms,
        **centiles([ms for ms, _ in found]),
        recall=recalled(queries, [numbers for _, numbers in found]),
        disk_mb=sum(path.stat().st_size for path in PATH.parent.rglob("*") if path.is_file()) / (1 << 20),
    )
    shutil.rmtree(PATH.parent)


async def _speed(peer: Peer, batches: Sequence[tuple[Sequence[Turn], Sequence[Any]]], callers: int = 1) -> float:
    """The rows a second where each caller inserts one batch after the other."""
    todo = iter(batches)

    async def caller() -> None:
        for batch in todo:
            await peer.insert(*batch)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller())
    return sum(len(turns) for turns, _ in batches) / (time.perf_counter() - begin)


def payload_of(turn: Turn) -> dict[str, Any]:
    """What mem0 stores beside a vector."""
    created = turn.created_at.isoformat()
    return {"data": turn.text, "user_id": turn.scope.user_id, "role": turn.role, "created_at": created}
