"""Memories in and out as JSON lines."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from ollama_async_mem.errors import StoreError
from ollama_async_mem.server.rest.routing import NDJSON, Route
from ollama_async_mem.server.rest.shapes import ExportMemories, Imported
from ollama_async_mem.server.rest.streams import Streamed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ollama_async_mem.server.rest.routing import Call
    from ollama_async_mem.server.rest.streams import Emit

__all__ = ["ROUTES"]

_BLOCK_BYTES = 1 << 18
_SAVE_AS = (b"content-disposition", b'attachment; filename="memories.jsonl"')


async def export(call: Call, asked: ExportMemories) -> Streamed:
    """Download memories with vectors, histories and waiting jobs; without any id, all that the key may see.

    `POST /import` and `ollama-async-mem import` read it.
    """
    arguments = call.within(asked)

    async def work(emit: Emit) -> None:
        block = bytearray()
        async with aclosing(call.memory.export_lines(**arguments)) as lines:
            async for line in lines:
                block += line
                if len(block) >= _BLOCK_BYTES:
                    await emit(bytes(block))
                    block.clear()
        await emit(bytes(block))

    return Streamed(work, as_events=False, headers=[_SAVE_AS])


async def import_(call: Call) -> Imported:
    """Store what `GET /export` gave, but what is there already; needs an admin key that is bound to nobody.

    Vectors of another model are made anew. Where a line is wrong, what came before it may be stored.
    """
    call.principal.require_admin()
    call.require_all()
    async with _scratch_file() as path:
        async with await path.open("xb") as file:
            async for block in call.body():
                await file.write(block)
        report = await call.memory.import_(path)
    return Imported(
        turns=report.turns, facts=report.facts, jobs=report.jobs, new=report.new, differing=report.differing
    )


@asynccontextmanager
async def _scratch_file() -> AsyncIterator[anyio.Path]:
    """Give the path of a file that nobody else can read, and remove it.

    Raises:
        StoreError: there is no room for it.
    """
    try:
        async with anyio.TemporaryDirectory[str](prefix="ollama-async-mem-") as folder:
            yield anyio.Path(folder) / "memories.jsonl"
    except OSError as exc:
        raise StoreError(f"a file for the memories cannot be used: {exc.strerror or exc}") from exc


ROUTES = (
    Route("GET", "/export", export, ExportMemories, bytes, streams=(NDJSON,)),
    Route("POST", "/import", import_, returns=Imported, raw_body=NDJSON),
)
