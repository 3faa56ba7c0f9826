"""Memories as files of JSON lines: written so that a file is whole or not there, and read from any embedding model."""

from __future__ import annotations

import os
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio

from ollama_async_mem.errors import ConfigError, StoreError
from ollama_async_mem.memory.intake import embedded_text
from ollama_async_mem.records import EmbeddingSpace, Turn
from ollama_async_mem.stores._lines import read_header
from ollama_async_mem.stores.transfer import import_lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from ollama_async_mem.ports import Embedder, MemoryStore, Vector
    from ollama_async_mem.records import MemoryRecord
    from ollama_async_mem.stores.transfer import CopyReport

__all__ = ["export_file", "import_file"]


async def export_file(exported: AsyncGenerator[bytes, None], path: str | os.PathLike[str]) -> int:
    """Write the lines of `export_lines` to a file that is new or replaced as a whole; returns how many memories.

    Raises:
        ConfigError: the path is none.
        StoreError: the store or the file cannot be used; an older file is as it was.
    """
    target = _checked(path)
    part = target.parent / f".{uuid4().hex}.part"
    lines = 0
    try:
        async with await anyio.open_file(part, "xb") as file, aclosing(exported) as written:
            await part.chmod(0o600)
            async for line in written:
                lines += line.startswith(b'{"line":"memory"')
                await file.write(line)
        await part.replace(target)
    except OSError as exc:
        raise StoreError(f"cannot write {target}: {exc.strerror or exc}") from exc
    finally:
        with anyio.CancelScope(shield=True), suppress(OSError):  # what could not be made cannot be removed either
            await part.unlink(missing_ok=True)
    return lines


async def import_file(
    store: MemoryStore,
    embedder: Embedder,
    path: str | os.PathLike[str],
    *,
    on_progress: Callable[[int, int], object] | None,
) -> CopyReport:
    """Store what `export_file` wrote, but what is there already; of another model's vectors new ones are made.

    A store that never held vectors is bound to those of the file where the embedder's model made them, and then the
    embedder is not asked.

    Raises:
        ConfigError: the file cannot be read, or is none of ours; the message says which line.
        EmbeddingMismatch: the store holds vectors of another model than the embedder's.
        StoreError: a memory cannot be stored.
    """
    try:
        async with await anyio.open_file(_checked(path), "rb") as file:
            first = await file.readline()
            space = await store.embedding_space() or _space_in(first, embedder) or await _space_of(embedder)

            async def embed(memories: Sequence[MemoryRecord]) -> Sequence[Vector]:
                texts = [embedded_text(memory) if isinstance(memory, Turn) else memory.text for memory in memories]
                return await embedder.embed_documents(texts)

            async def lines() -> AsyncIterator[bytes]:
                yield first
                async for line in file:
                    yield line

            return await import_lines(store, lines(), space=space, embed=embed, on_progress=on_progress)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror or exc}") from exc


def _space_in(header: bytes, embedder: Embedder) -> EmbeddingSpace | None:
    """Whose vectors a file holds, None where they are not the embedder's.

    Raises:
        ConfigError: the line is no header.
    """
    space = read_header(header).space if header.strip() else None
    return space if space and space.model == embedder.model else None


async def _space_of(embedder: Embedder) -> EmbeddingSpace:
    return EmbeddingSpace(embedder.model, len(await embedder.embed_query("how long is a vector?")))


def _checked(path: object) -> anyio.Path:
    try:
        name = os.fsencode(path)  # type: ignore[arg-type]
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"the path of a file is needed, got {path!r:.80}") from exc
    if not name or b"\0" in name:
        raise ConfigError(f"the path of a file is needed, got {path!r:.80}")
    return anyio.Path(os.fsdecode(name))
