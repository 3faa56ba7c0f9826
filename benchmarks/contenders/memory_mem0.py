"""mem0's AsyncMemory with its Ollama provider and default store, telemetry off. Its `add` waits for the facts."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

from benchmarks.memory_case import EMBEDDER, LLM, Memories, compare
from benchmarks.phases import CASE, URL

DIMENSION = CASE["dimension"]


@asynccontextmanager
async def opened() -> AsyncIterator[Memories]:
    """A new folder, in which it also keeps what else it writes."""
    with TemporaryDirectory() as folder:
        os.environ |= {"MEM0_TELEMETRY": "False", "MEM0_DIR": folder, "HOME": folder}
        from mem0 import AsyncMemory  # noqa: PLC0415 - it reads the variables on import

        memory = AsyncMemory.from_config(
            {
                "llm": {"provider": "ollama", "config": {"model": LLM, "ollama_base_url": URL}},
                "embedder": {
                    "provider": "ollama",
                    "config": {"model": EMBEDDER, "ollama_base_url": URL, "embedding_dims": DIMENSION},
                },
                "vector_store": {
                    "provider": "qdrant",
                    "config": {"path": f"{folder}/qdrant", "on_disk": True, "embedding_model_dims": DIMENSION},
                },
                "history_db_path": f"{folder}/history.db",
            }
        )

        async def settle() -> None:
            """All is done when `add` returns."""

        async def search(user: str, query: str) -> int:
            return len((await memory.search(query, filters={"user_id": user}))["results"])

        async def fill(user: str, messages: list[str]) -> None:
            for message in messages:
                await memory.add(message, user_id=user, infer=False)

        yield Memories(lambda user, text: memory.add(text, user_id=user), settle, search, fill)


asyncio.run(compare(opened))
