"""Moving memories from one store to another, and to JSON lines and back.

It works on any stores by way of the port, and knows neither databases nor files. What is there already is left as it
is, so whatever was stopped in the middle is simply started again.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec.structs import replace

from ollama_async_mem.errors import ConfigError, StoreError
from ollama_async_mem.records import Scope, StoredJob, StoredMemory

from ._checks import require_space
from ._lines import End, Header, kind_of, read_header, read_line, write_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence

    from ollama_async_mem.counts import Counts
    from ollama_async_mem.ports import MemoryStore, Vector
    from ollama_async_mem.records import EmbeddingSpace, MemoryRecord

    from ._lines import Item

    Batches: TypeAlias = AsyncGenerator[Sequence[Item], None]
    Numbered: TypeAlias = AsyncGenerator[tuple[int, bytes], None]
    Embed: TypeAlias = Callable[[Sequence[MemoryRecord]], Awaitable[Sequence[Vector]]]
    OnProgress: TypeAlias = Callable[[int, int], object]

__all__ = ["CopyReport", "copy_store", "export_lines", "import_lines"]

BATCH, BATCH_BYTES = 500, 8 << 20
EXAMPLES = 10
_ALL = Scope()


class CopyReport(msgspec.Struct, frozen=True, kw_only=True):
    """How many turns, facts and unfinished jobs were read, and how many of the memories were new to the target.

    `differing` counts those of which the target has another state, or another memory with the same id: what is there
    was left as it is. `examples` are the ids of the first of them.
    """

    turns: int = 0
    facts: int = 0
    jobs: int = 0
    new: int = 0
    differing: int = 0
    examples: tuple[str, ...] = ()


async def copy_store(
    source: MemoryStore,
    target: MemoryStore,
    *,
    scope: Scope = _ALL,
    batch: int = BATCH,
    on_progress: OnProgress | None = None,
) -> CopyReport:
    """Copy the memories of a scope, with vectors, histories and unfinished jobs, into another store.

    What the target holds already is left as it is, so a copy that was stopped goes on when it is started again; the
    report says how much of it differs, be it that it changed since in one of the stores.
    `on_progress` gets the number of memories that are done, and of all. While others write to the source, each memory
    that stays is copied as it is when its turn comes; one that comes or goes meanwhile may be copied or not.

    Raises:
        ConfigError: both stores are one.
        EmbeddingMismatch: the target holds vectors of another space; nothing was written.
        StoreError: a store failed, or the target has fewer memories of the scope in the end than were read.
    """
    if source is target:
        raise ConfigError(f"{source.location} cannot be copied to itself: name another target")
    space = await source.embedding_space()
    if space is None:  # nothing was ever stored there
        return CopyReport()
    await _require_room(target, space)
    total = await source.counts(scope)
    report = await _write(target, _read(source, scope, batch), space=space, total=total, on_progress=on_progress)
    there = await target.counts(scope)
    if there.turns + there.facts + report.differing < report.turns + report.facts:
        raise StoreError(
            f"{report.turns} turns and {report.facts} facts were read from {source.location}, but {target.location} "
            f"has {there.turns} and {there.facts}: some were deleted there meanwhile; copy again"
        )
    return report


async def export_lines(store: MemoryStore, scope: Scope = _ALL, *, batch: int = BATCH) -> AsyncGenerator[bytes, None]:
    """Write the memories of a scope as JSON lines, each with its line end, for `import_lines`.

    A header names the format, its version and the embedding space, and counts the memories. Then come the memories with
    their vectors (float32, little endian, in base64) and histories, the unfinished jobs, and a line that counts what
    was written, by which it is seen when some is missing. Nothing is left open between two lines. When others write
    meanwhile, it is as with `copy_store`.
    """
    space = await store.embedding_space()
    yield write_line(Header(space=space, counts=await store.counts(scope)))
    tally: Counter[str] = Counter()
    if space is not None:  # else nothing was ever stored there
        async with aclosing(_read(store, scope, batch)) as batches:
            async for items in batches:
                for item in items:
                    tally[kind_of(item)] += 1
                    yield write_line(item)
    yield write_line(_end(tally))


async def import_lines(
    store: MemoryStore,
    lines: AsyncIterable[bytes],
    *,
    batch: int = BATCH,
    space: EmbeddingSpace | None = None,
    embed: Embed | None = None,
    on_progress: OnProgress | None = None,
) -> CopyReport:
    """Store what `export_lines` wrote, but what is there already. What came before a failure stays stored.

    Lines without vectors, or with those of another space than the store's, need `embed`, which makes vectors of `space`
    for memories. It is asked about new ones only, and about none where the lines have vectors of `space` themselves.

    Raises:
        ConfigError: a line is not what it should be, and the message says which; or they end too early. Nothing of
            that batch was stored.
        SchemaTooNew: a newer version of this library wrote the lines; nothing was stored.
        EmbeddingMismatch: the store holds vectors of another space; nothing was stored.
        StoreError: a memory cannot be stored; nothing of its batch was.
    """
    if (space is None) != (embed is None):
        raise ConfigError("`embed` and the `space` of what it makes are given together or not at all")
    async with aclosing(_numbered(lines)) as numbered:
        first = await anext(numbered, None)
        header = read_header(first[1] if first else b"")
        embed = None if space == header.space else embed
        space = header.space if embed is None else space
        if space is not None:
            await _require_room(store, space)
        dimension = None if embed else space.dimension if space else 0
        batches = _parsed(numbered, batch, dimension)
        return await _write(store, batches, space=space, total=header.counts, on_progress=on_progress, embed=embed)


async def _require_room(store: MemoryStore, space: EmbeddingSpace) -> None:
    """Check that a store takes vectors of a space, before anything is written."""
    bound = await store.embedding_space()
    if bound is not None:
        require_space(bound, space, f"the store {store.location}")


async def _read(store: MemoryStore, scope: Scope, batch: int) -> Batches:
    """Read a scope: its memories, then its jobs.

    Jobs are asked for before the memories too: one may end meanwhile, and its facts come where they are not read.
    """
    jobs = await store.dump_jobs(scope)
    page, cursor = await store.dump(scope, limit=batch)
    yield page
    while cursor is not None:
        page, cursor = await store.dump(scope, limit=batch, cursor=cursor)
        yield page
    jobs = list({job.id: job for job in (*jobs, *await store.dump_jobs(scope))}.values())
    for start in range(0, len(jobs), batch):
        yield jobs[start : start + batch]


async def _write(
    target: MemoryStore,
    batches: Batches,
    *,
    space: EmbeddingSpace | None,
    total: Counts,
    on_progress: OnProgress | None,
    embed: Embed | None = None,
) -> CopyReport:
    """Load batches into a store, one after the other. Without a space there are no memories in them."""
    tally: Counter[str] = Counter()
    differing: list[str] = []
    async with aclosing(batches):
        async for items in batches:
            tally.update(map(kind_of, items))
            if space is not None:
                differing += await _differing(target, items)
                tally["new"] += await _load(target, items, space, embed)
            if on_progress is not None:
                done = tally["turn"] + tally["fact"]
                on_progress(done, max(done, total.turns + total.facts))
    return CopyReport(
        turns=tally["turn"],
        facts=tally["fact"],
        jobs=tally["job"],
        new=tally["new"],
        differing=len(differing),
        examples=tuple(differing[:EXAMPLES]),
    )


async def _differing(target: MemoryStore, items: Sequence[Item]) -> list[str]:
    """The ids of memories of which the target, or the same batch before, has another state."""
    memories = [item.memory for item in items if isinstance(item, StoredMemory)]
    there = {memory.id: memory for memory in await target.get_many([memory.id for memory in memories])}
    return [memory.id for memory in memories if there.setdefault(memory.id, memory) != memory]


async def _load(target: MemoryStore, items: Sequence[Item], space: EmbeddingSpace, embed: Embed | None) -> int:
    memories = [item for item in items if isinstance(item, StoredMemory)]
    jobs = [item for item in items if isinstance(item, StoredJob)]
    if embed is not None:
        there = {memory.id for memory in await target.get_many([stored.memory.id for stored in memories])}
        memories = [stored for stored in memories if stored.memory.id not in there]
        vectors = await embed([stored.memory for stored in memories]) if memories else ()
        made = [vector.astype("<f4").tobytes() for vector in vectors]
        memories = [replace(stored, vector=vector) for stored, vector in zip(memories, made, strict=True)]
    return await target.load(memories, jobs, space=space)


async def _numbered(lines: AsyncIterable[bytes]) -> Numbered:
    """Number lines as people do, and leave out those that are blank."""
    number = 0
    async for line in lines:
        number += 1
        if line.strip():
            yield number, line


async def _parsed(numbered: Numbered, batch: int, dimension: int | None) -> Batches:
    """Read the lines after the header. A batch is complete before it is given out.

    Raises:
        ConfigError: a line is wrong, or some are missing.
    """
    tally: Counter[str] = Counter()
    items: list[Item] = []
    size_bytes = 0
    async for number, line in numbered:
        item = read_line(number, line, dimension=dimension)
        if isinstance(item, End):
            break
        tally[kind_of(item)] += 1
        items.append(item)
        size_bytes += len(line)
        if len(items) >= batch or size_bytes >= BATCH_BYTES:
            yield items
            items, size_bytes = [], 0
    else:
        raise ConfigError("the lines stop before their end: what follows was cut off")
    _require_whole(item, _end(tally))
    async for number, _ in numbered:
        raise ConfigError(f"line {number} comes after the end of what was exported")
    yield items


def _require_whole(said: End, read: End) -> None:
    if said != read:
        raise ConfigError(
            f"the end counts {said.turns} turns, {said.facts} facts and {said.jobs} jobs, but {read.turns}, "
            f"{read.facts} and {read.jobs} came before it: lines are missing, or were added"
        )


def _end(tally: Counter[str]) -> End:
    return End(turns=tally["turn"], facts=tally["fact"], jobs=tally["job"])
