"""This package: a memory in one file, with its default settings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.memory_case import EMBEDDER, LLM, Memories, compare
from benchmarks.phases import URL
from ollama_async_mem import Memory


@asynccontextmanager
async def opened() -> AsyncIterator[Memories]:
    """A new file."""
    with TemporaryDirectory() as folder:
        async with Memory(Path(folder) / "memory.db", host=URL, llm=LLM, embedder=EMBEDDER) as mem:

            async def search(user: str, query: str) -> int:
                return len(await mem.search(query, user_id=user))

            async def fill(user: str, messages: list[str]) -> None:
                for start in range(0, len(messages), 500):
                    await mem.add(messages[start : start + 500], user_id=user, infer=False)

            yield Memories(lambda user, text: mem.add(text, user_id=user), mem.flush, search, fill)


asyncio.run(compare(opened))
