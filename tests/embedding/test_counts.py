"""What an embedder counts, and where a memory shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from client.backends import on_both
from fakes import error
from fakes.vectors import text_vector

from ollama_async_mem import Memory, OllamaClient, OllamaEmbedder, no_retry_waits
from ollama_async_mem.counts import EmbeddingCounts
from ollama_async_mem.errors import ServerBusy

from .helpers import EMBED, Caller, embedding, hold, sent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from fakes import ScriptedOllama

    from ollama_async_mem.ports import Vector

ADDITIONS: list[dict[str, Any]] = [
    {"messages": f"text {number}", "user_id": "alice", "key": f"message-{number}"} for number in range(40)
]


@on_both
async def test_what_is_tried_again_is_one_request(fake: ScriptedOllama) -> None:
    """Counted as such, for each embedder by itself, and also where it fails in the end."""
    fake.enqueue(EMBED, error(503, "busy"), error(503, "busy"))
    async with OllamaClient(fake.url) as client, OllamaEmbedder("m", client=client) as embedder:
        with no_retry_waits():
            await embedder.embed("tea")
            fake.enqueue(EMBED, error(503, "busy"), repeat=True)
            async with OllamaEmbedder("m", client=client) as other:
                caller = Caller(other, "cake")
                await caller()
    assert isinstance(caller.failure, ServerBusy)
    assert (embedder.statistics.requests, embedder.statistics.retries) == (1, 2)
    assert (other.statistics.requests, other.statistics.retries) == (1, 5)


@on_both
async def test_seconds_are_those_of_requests(fake: ScriptedOllama) -> None:
    """Those that were under way, answered or not; none for what is in the cache."""
    held = hold(fake, 1)
    async with embedding(fake) as embedder:
        assert embedder.statistics == EmbeddingCounts()
        held.release()
        await embedder.embed("tea")
        took_s = embedder.statistics.seconds
        assert 0 < took_s < 10
        await embedder.embed("tea")
        assert embedder.statistics.seconds == took_s


async def test_a_memory_shows_them(fake: ScriptedOllama, tmp_path: Path) -> None:
    """Beside what it stores and extracts."""
    async with Memory(tmp_path / "memory.db", host=fake.url) as mem:
        await mem.add("tea", user_id="alice", infer=False)
        await mem.search("tea", user_id="alice")
        await mem.search("tea", user_id="alice")
        counts = (await mem.statistics()).embedding
    assert counts is not None
    assert (counts.requests, counts.sent, counts.texts, counts.cache_hits, counts.retries) == (2, 2, 3, 1, 0)


async def test_an_embedder_need_not_count(tmp_path: Path) -> None:
    """One of the caller's own has what the port asks for, and the memory then shows nothing."""
    async with Memory(tmp_path / "memory.db", embedder=Local()) as mem:
        await mem.add("tea", user_id="alice", infer=False)
        assert (await mem.statistics()).embedding is None


async def test_what_is_stored_is_not_embedded_again(fake: ScriptedOllama, tmp_path: Path) -> None:
    """A bulk import that was stopped sends only what is missing: messages by their keys, lines of a file by their ids.

    That holds in a new process, which has nothing in its cache.
    """
    exported, first, second = tmp_path / "memories.jsonl", tmp_path / "memory.db", tmp_path / "other.db"
    async with Memory(first, host=fake.url) as mem:
        await mem.add_many(ADDITIONS[:30], infer=False)
    async with Memory(first, host=fake.url) as mem:
        await mem.add_many(ADDITIONS, infer=False)
        assert await _sent(mem) == 10
        await mem.export(exported)
    async with Memory(second, host=fake.url, embedder="another-model") as mem:
        await mem.import_(exported)
    async with Memory(second, host=fake.url, embedder="another-model") as mem:
        await mem.import_(exported)
        assert (await mem.count()).turns == 40
        assert await _sent(mem) == 0
    assert sum(map(len, sent(fake))) == 40 + 40 + 1  # one text tells how long the vectors of another model are


async def _sent(mem: Memory) -> int:
    counts = (await mem.statistics()).embedding
    assert counts is not None
    return counts.sent


class Local:
    """An embedder that is a part of the program."""

    model = "local"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """Ask nobody."""
        return [text_vector(text, 256) for text in texts]

    async def embed_query(self, text: str) -> Vector:
        """As documents."""
        return text_vector(text, 256)
