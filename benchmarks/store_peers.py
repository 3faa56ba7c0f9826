"""What stores of others do beside ours: the same rows and queries, from an empty folder, in one process."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .footprint import report
from .phases import CASE
from .store_case import FOLDER
from .store_data import Made, embedder
from .store_phases import centiles, mean_recall, timed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from ollama_async_mem.records import Turn

    from .vectors import Numbers

FOLDER_OF_RUN = Path(tempfile.mkdtemp(dir=FOLDER))
PATH = FOLDER_OF_RUN / "store"


class Peer(NamedTuple):
    """An open store: the calls that insert a row, its vector a list of numbers or an array, and that find some."""

    insert: Callable[[Turn, Any], Awaitable[None]]
    search: Callable[[int, Any], Awaitable[Numbers]]
    may_share: bool = False
    """Whether several callers may use it at once."""


async def compare(opened: Callable[[], AbstractAsyncContextManager[Peer]], *, as_lists: bool) -> None:
    """Insert a part of the rows one by one and the others from many callers, open it again and search."""
    made = Made(await embedder(), CASE["queries"])
    rows = [(turn, vector) for turns, vectors in made.batches() for turn, vector in zip(turns, vectors.tolist() if as_lists else vectors, strict=True)]
    queries = made.asked()
    looked_for = queries.vectors.tolist() if as_lists else queries.vectors
    alone = rows[: len(rows) // 5]
    async with opened() as peer:
        alone_s = await _insert(peer, alone, 1)
        together_s = await _insert(peer, rows[len(alone) :], CASE["callers"] if peer.may_share else 1)
    begin = time.perf_counter()
    async with opened() as peer:
        ...
