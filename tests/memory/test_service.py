"""The memory on a scripted Ollama and a real embedded store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
import pytest
from fakes import STALL, Raw, Reply, ScriptedOllama, error

from ollama_async_mem import Fact, Memory, Message, OllamaClient, RetryPolicy, Scope, Turn
from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, ModelNotFound, RecordNotFound, StoreClosed
from ollama_async_mem.memory import searching
from ollama_async_mem.records import EmbeddingSpace, StoredMemory
from ollama_async_mem.steps import SearchStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ollama_async_mem import SearchResult
    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Candidate, MemoryRecord


class Same:
    """Embeds every text alike."""

    model = "same"

    async def __aenter__(self) -> Self:
        """Open nothing."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close nothing."""

    async def embed_query(self, _: str) -> Vector:
        """Give the one vector."""
        return np.ones(64, np.float32)

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """Give it for each."""
        return [await self.embed_query(text) for text in texts]


class Neither:
    """What nothing is."""


FACTS = {"facts": [{"line": 1, "quote": "I finally adopted a cat", "text": "Mia adopted a cat."}]}


@pytest.fixture
def memory(server: ScriptedOllama, tmp_path: Path) -> Callable[..., Memory]:
    """Make memories on one store and the scripted server."""

    def make(**options: Any) -> Memory:
        return Memory(tmp_path / "memory.db", host=server.url, **options)

    return make


async def test_what_is_added_is_found_at_once(memory: Callable[..., Memory]) -> None:
    """`add` returns when the turn is durable and searchable, by meaning and by words."""
    async with memory() as mem:
        added = await mem.add("I'm allergic to peanuts", user_id="alice", metadata={"from": "test"})
        found = await mem.search("peanuts", user_id="alice", limit=5)
        assert [hit.id for hit in found] == [added.turns[0].id]
        assert (found.hits[0].score > 0.9, found.degraded) == (True, ())
        assert await mem.get(added.turns[0].id) == added.turns[0]
        assert added.turns[0].metadata == {"from": "test"}


async def test_a_memory_outlives_its_process(memory: Callable[..., Memory]) -> None:
    """A store that is opened again has everything."""
    async with memory() as mem:
        added = await mem.add("remember me", user_id="alice", infer=False)
    async with memory() as mem:
        page = await mem.list(user_id="alice")
        assert page.items == added.turns


async def test_scopes_do_not_see_each_other(memory: Callable[..., Memory]) -> None:
    """Ids that are given must match; a user's search goes over all of their runs."""
    async with memory() as mem:
        await mem.add("tea for alice", user_id="alice", run_id="monday", infer=False)
        await mem.add("tea for bob", user_id="bob", run_id="monday", infer=False)
        await mem.add("tea again", user_id="alice", run_id="tuesday", infer=False)

        async def texts(**ids: Any) -> set[str]:
            return {hit.text for hit in await mem.search("tea", **ids)}

        assert await texts(user_id="alice") == {"tea for alice", "tea again"}
        assert await texts(user_id="alice", run_id="monday") == {"tea for alice"}
        assert await texts(run_id="monday") == {"tea for alice", "tea for bob"}
        assert await texts(user_id="carol") == set()


async def test_speakers_and_times_are_kept(memory: Callable[..., Memory]) -> None:
    """Names, per-message times and the call's time are stored; context writes them down in order."""
    async with memory() as mem:
        messages: list[Any] = [
            Message(role="assistant", content="tea for all"),
            {"role": "user", "name": "Ann", "content": "tea with Bob yesterday", "timestamp": "2026-05-01T10:00:00Z"},
        ]
        await mem.add(messages, user_id="a", timestamp="2026-03-01", infer=False)
        assert await mem.context("tea", user_id="a") == (
            "[1 March 2026] assistant: tea for all\n"
            "[1 May 2026] Ann: tea with Bob yesterday (yesterday = 30 April 2026)"
        )


async def test_an_add_is_all_or_nothing(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """A blank message, or none, stores nothing and costs no request."""
    async with memory() as mem:
        for bad in ("", "  ", [], ["fine", " "]):
            with pytest.raises(ConfigError):
                await mem.add(bad, user_id="alice")
        with pytest.raises(ConfigError, match="user_id"):
            await mem.add("whose?")
        assert (await mem.count()).turns == 0
    assert server.requests == []


@pytest.mark.parametrize("bad", [{"query": " "}, {"query": "x", "limit": 0}, {"query": "x", "limit": 10**6}])
async def test_bad_searches_are_refused(memory: Callable[..., Memory], bad: dict[str, Any]) -> None:
    """A blank query and a limit out of range say what is allowed."""
    async with memory() as mem:
        with pytest.raises(ConfigError):
            await mem.search(**bad, user_id="alice")


async def test_deleted_is_gone(memory: Callable[..., Memory]) -> None:
    """A deleted memory is neither found, listed nor got; deleting it twice says so."""
    async with memory() as mem:
        turn = (await mem.add("secret word", user_id="a", infer=False)).turns[0]
        await mem.delete(turn.id)
        assert len(await mem.search("secret", user_id="a")) == 0
        assert (await mem.list(user_id="a")).items == ()
        for call in (mem.get, mem.delete):
            with pytest.raises(RecordNotFound, match=turn.id):
                await call(turn.id)


async def test_a_store_that_takes_more_steps_finds_the_same(
    memory: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said around the hits counts as much, also where the words are found last."""
    said = [
        "We went to the lake",
        "It rained a lot",
        "Bo lost the car keys",
        "They were in the tent",
        "Supper was late",
    ]
    queries = ["where were the keys", "what about supper", "rain at the lake yesterday", "keys", "what was said today"]

    async def found(mem: Memory) -> list[SearchResult]:
        return [await mem.search(query, user_id="u", explain=True) for query in queries]

    async with memory() as mem:
        await mem.add(said, user_id="u", infer=False)
        await mem.search("warm up", user_id="u")
        in_one = await found(mem)
        assert any(hit.parts["neighbours"] for hit in in_one[0])
        assert isinstance(mem.store, SearchStore)
        words = mem.store.search_by_words

        async def slow(*args: Any, **options: Any) -> list[Candidate]:
            await asyncio.sleep(0.02)
            return await words(*args, **options)

        monkeypatch.setattr(mem.store, "search_by_words", slow)
        assert await found(mem) == in_one
    monkeypatch.setattr(searching, "SearchStore", Neither)
    async with memory() as mem:
        assert await found(mem) == in_one


async def test_a_hit_is_its_callers_own(memory: Callable[..., Memory]) -> None:
    """What is done to the metadata of a hit is in no other, of a search at the same time or later."""
    async with memory() as mem:
        for metadata in ({"tags": ["drink"]}, None):
            for n in range(3):
                await mem.add(f"I drink tea at {n}", user_id="alice", infer=False, metadata=metadata)
        for _ in range(2):
            found = await asyncio.gather(*(mem.search("tea", user_id="alice") for _ in range(8)))
            for result in found:
                assert sorted(bool(hit.memory.metadata) for hit in result) == [False] * 3 + [True] * 3
                for hit in result:
                    assert hit.memory.metadata in ({"tags": ["drink"]}, {})
                    hit.memory.metadata.setdefault("tags", []).append("mine")


async def test_as_many_are_found_as_are_asked_for(memory: Callable[..., Memory]) -> None:
    """Also where a turn and the fact that is drawn from it are one hit."""
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    vectors = list(np.random.default_rng(0).standard_normal((240, 64)).astype(np.float32))
    common: list[dict[str, Any]] = [
        {"scope": Scope("u"), "at": begin + timedelta(hours=3 * n), "created_at": begin} for n in range(120)
    ]
    turns = [Turn(id=f"t{n}", role="user", text=f"alpha{n}", **fields) for n, fields in enumerate(common)]
    facts = [
        Fact(id=f"f{n}", text=f"beta{n}", quote=f"alpha{n}", turn_ids=(f"t{n}",), **fields)
        for n, fields in enumerate(common)
    ]
    said: list[MemoryRecord] = [*turns, *facts]
    stored = [StoredMemory(memory=memory, vector=row.tobytes()) for memory, row in zip(said, vectors, strict=True)]
    async with memory(embedder=Same(), extract_here=False) as mem:
        await mem.store.load(stored, space=EmbeddingSpace("same", 64))
        for limit in (10, 30, 100):
            assert len(await mem.search("something else", user_id="u", limit=limit)) == limit


async def test_a_search_without_the_embedder_degrades(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """When the query cannot be embedded, words still find, and the result says so."""
    client = OllamaClient(server.url, retry=RetryPolicy(attempts=1))
    async with client, memory(client=client) as mem:
        await mem.add("peanuts and tea", user_id="a", infer=False)
        await server.stop()
        found = await mem.search("peanuts", user_id="a")
    assert [hit.text for hit in found] == ["peanuts and tea"]
    assert found.degraded == ("dense",)


async def test_a_search_does_not_wait_for_an_embedder_that_hangs(
    memory: Callable[..., Memory], server: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes a request and says nothing is as one that is away, after some seconds."""
    async with memory() as mem:
        await mem.add("peanuts and tea", user_id="a", infer=False)
        server.enqueue("POST /api/embed", Raw([STALL]), repeat=True)
        monkeypatch.setattr(searching, "PATIENCE_S", 0.05)
        found = await mem.search("peanuts", user_id="a")
    assert [hit.text for hit in found] == ["peanuts and tea"]
    assert found.degraded == ("dense",)


async def test_an_add_without_the_embedder_fails_and_stores_nothing(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """A missing embedding model is the server's own error; nothing is half stored."""
    server.settings.only_listed = True
    server.settings.models.clear()
    async with memory() as mem:
        with pytest.raises(ModelNotFound, match="try pulling it first"):
            await mem.add("hello", user_id="a")
        assert (await mem.count()).turns == 0


async def test_another_embedder_is_refused(memory: Callable[..., Memory]) -> None:
    """A store of one model's vectors does not open with another; the error names both and the way out."""
    async with memory() as mem:
        await mem.add("hello", user_id="a", infer=False)
    with pytest.raises(EmbeddingMismatch, match="another store") as caught:
        async with memory(embedder="mxbai-embed-large"):
            pass
    assert "nomic-embed-text:latest" in str(caught.value)
    assert "mxbai-embed-large:latest" in str(caught.value)
    async with memory(embedder="NOMIC-embed-text:latest") as mem:
        assert (await mem.count()).turns == 1


async def test_another_dimension_is_refused(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """Vectors of another length never get into the store."""
    async with memory() as mem:
        await mem.add("hello", user_id="a", infer=False)
        server.settings.dimension = 64
        with pytest.raises(EmbeddingMismatch, match="256"):
            await mem.add("again", user_id="a", infer=False)
        assert (await mem.count()).turns == 1


async def test_facts_are_extracted_behind_and_grounded(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """`flush` waits for the facts; each has its quote and turn, and one that was not said is not stored."""
    invented = {"line": 1, "quote": "I work in Berlin", "text": "Mia works in Berlin."}
    server.settings.answer = lambda _: msgspec.json.encode({"facts": [*FACTS["facts"], invented]}).decode()
    async with memory() as mem:
        added = await mem.add({"name": "Mia", "content": "I finally adopted a cat!"}, user_id="a")
        assert added.job_id
        assert await mem.flush() == 0
        (fact,) = (await mem.list(user_id="a", kinds=["fact"])).items
        assert isinstance(fact, Fact)
        assert (fact.text, fact.turn_ids) == ("Mia adopted a cat.", (added.turns[0].id,))
        assert "cat" in (await mem.search("cat", user_id="a", kinds=["fact"])).hits[0].text
        await mem.add({"name": "Mia", "content": "I finally adopted a cat!"}, user_id="a", infer="now")
        assert (await mem.count(user_id="a")).facts == 1  # known already
    request = server.requests_to("POST /api/chat")[0].json
    assert request["options"]["temperature"] == 0
    assert request["format"]["properties"]["facts"]["type"] == "array"


async def test_an_answer_that_does_not_fit_is_repaired_once_then_given_up(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """The model is asked once more; then the job is given up and the turns stay."""
    async with memory() as mem:
        await mem.add("hello", user_id="a")
        assert await mem.flush() == 0
        assert (await mem.count()).turns == 1
        assert (await mem.count()).facts == 0
    assert len(server.requests_to("POST /api/chat")) == 2


async def test_jobs_wait_for_a_model_that_is_away(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """While the chat model fails, adds and searches work and the job stays in the queue."""
    server.enqueue("POST /api/chat", error(500, "llama-server process has terminated"), repeat=True)
    async with memory() as mem:
        await mem.add("hello there", user_id="a")
        assert await mem.flush() == 1
        assert len(await mem.search("hello", user_id="a")) == 1


async def test_closing_leaves_an_unfinished_job_in_the_queue(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """A memory that is closed while the model works closes at once; the turn and the job are still there."""
    server.enqueue("POST /api/chat", Raw([STALL]))
    async with asyncio.timeout(5), memory() as mem:
        await mem.add("hello there", user_id="a")
        await server.wait_until(lambda: len(server.requests_to("POST /api/chat")) == 1)
    async with memory() as mem:
        assert (await mem.count()).turns == 1
        assert await mem.store.pending_jobs() == 1


async def test_chat_recalls_streams_and_remembers(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """The model is given what is known, and question and answer are stored in their order."""
    async with memory() as mem:
        await mem.add({"content": "I'm allergic to peanuts", "name": "Ann"}, user_id="a", infer=False)
        async with mem.chat("Suggest a snack without peanuts", user_id="a", infer=False) as stream:
            pieces = [piece async for piece in stream.text()]
        assert "".join(pieces) == stream.answer == "You said: Suggest a snack without peanuts"
        assert "Ann: I'm allergic to peanuts" in stream.memories
        newest = (await mem.list(user_id="a", limit=2)).items
        assert [m.text for m in newest] == [stream.answer, "Suggest a snack without peanuts"]
        assert stream.added
        assert stream.added.turns[0] == newest[1]
    sent = server.requests_to("POST /api/chat")[0].json["messages"]
    assert sent[0]["role"] == "system"
    assert "<memories>" in sent[0]["content"]
    assert sent[1] == {"role": "user", "content": "Suggest a snack without peanuts"}


async def test_a_chat_that_is_left_early_is_not_remembered(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """Half an answer is not stored, and its connection is closed."""
    server.settings.token_interval_s = 0.05
    async with memory() as mem:
        async with mem.chat("one two three four five six", user_id="a") as stream:
            async for _ in stream.text():
                break
        assert stream.added is None
        assert (await mem.count()).turns == 0


async def test_concurrent_adds_share_requests(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """Sixty-four tasks that add at the same time need a few requests, and all are stored."""
    server.settings.embed_latency_s = 0.02
    async with memory() as mem:
        await asyncio.gather(*(mem.add(f"note {i}", user_id=f"u{i}", infer=False) for i in range(64)))
        assert (await mem.count()).turns == 64
    assert len(server.requests_to("POST /api/embed")) <= 4


async def test_one_bad_text_does_not_fail_its_neighbours(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """When a shared request is refused, its callers are served apart."""

    def answer(request: Any) -> Reply:
        bad = any("BAD" in text for text in request.json["input"])
        vectors = [[1.0, *[0.0] * 255] for _ in request.json["input"]]
        return error(400, "input length exceeds") if bad else Reply(json={"embeddings": vectors})

    server.enqueue("POST /api/embed", answer, repeat=True)
    async with memory() as mem:
        texts = ("good 1", "BAD", "good 2")
        calls = (mem.add(text, user_id="a", infer=False) for text in texts)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert (await mem.count()).turns == 2
    assert any(len(request.json["input"]) > 1 for request in server.requests)
    assert [isinstance(r, Exception) for r in results].count(True) == 1


async def test_a_closed_memory_says_so(memory: Callable[..., Memory]) -> None:
    """Using a memory outside of its context is a clear error."""
    mem = memory()
    with pytest.raises((StoreClosed, RuntimeError), match="async with"):
        await mem.add("x", user_id="a")
    async with mem:
        pass
    with pytest.raises(StoreClosed):
        await mem.list(user_id="a")


async def test_future_and_ancient_times_sort(memory: Callable[..., Memory]) -> None:
    """Times before 1970 and in the future are kept and sorted."""
    async with memory() as mem:
        for year in (1950, 2150, 2026):
            await mem.add(f"year {year}", user_id="a", timestamp=datetime(year, 1, 1, tzinfo=UTC), infer=False)
        assert [m.at.year for m in (await mem.list(user_id="a")).items] == [2150, 2026, 1950]


async def test_a_memory_opens_twice_in_a_row_and_in_parallel(memory: Callable[..., Memory]) -> None:
    """Two memories on one store see each other's turns."""
    async with memory() as one, memory() as two:
        await one.add("from one", user_id="a", infer=False)
        await two.add("from two", user_id="a", infer=False)
        assert {h.text for h in await one.search("from", user_id="a")} == {"from one", "from two"}
        assert {h.text for h in await two.search("from", user_id="a")} == {"from one", "from two"}


async def test_a_job_that_was_interrupted_goes_on_at_once(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """Closing gives a job back: the next to open the store need not wait for its lease."""
    server.enqueue("POST /api/chat", Raw([STALL]))
    async with memory() as mem:
        await mem.add({"name": "Mia", "content": "I finally adopted a cat!"}, user_id="a")
        await server.wait_until(lambda: len(server.requests_to("POST /api/chat")) == 1)
    server.settings.answer = lambda _: msgspec.json.encode(FACTS).decode()
    async with memory() as mem:
        assert await mem.flush() == 0
        assert (await mem.count()).facts == 1


async def test_a_model_that_misbehaves_is_a_record_of_the_job(memory: Callable[..., Memory]) -> None:
    """An exception that nobody foresaw gives the job up and says why; the memory and its owner go on."""

    class Broken:
        model = "broken"

        async def generate(self, messages: Any, *, schema: Any = None) -> Any:
            raise ValueError("surprise")

        def stream(self, messages: Any) -> Any:
            raise NotImplementedError

    async with memory(llm=Broken()) as mem:
        result = await mem.add("hello", user_id="a", infer="now")
        assert (result.extraction, result.error) == ("failed", "ValueError: surprise")
        assert [job.state for job in await mem.store.unfinished_jobs()] == ["dead"]
        assert len(await mem.search("hello", user_id="a")) == 1


async def test_waiting_for_facts_tells_how_it_went(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """`infer="now"` says whether the facts are there, wait for a model that is away, or could not be had."""
    async with memory() as mem:
        server.settings.answer = lambda _: msgspec.json.encode(FACTS).decode()
        assert (await mem.add("x", user_id="a", infer="now")).extraction == "done"
        assert (await mem.add("x", user_id="a", infer=False)).extraction == "none"
        server.settings.answer = lambda _: "no json"
        failed = await mem.add("y", user_id="a", infer="now")
        server.settings.models.clear()
        server.settings.models.append("nomic-embed-text:latest")
        server.settings.only_listed = True
        waiting = await mem.add("z", user_id="a", infer="now")
    assert failed.extraction == "failed"
    assert "does not fit" in str(failed.error)
    assert waiting.extraction == "waiting"
    assert "model 'llama3.2' not found" in str(waiting.error)


async def test_what_is_refused_again_and_again_is_given_up(
    memory: Callable[..., Memory], server: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that the server calls wrong is not repeated for ever."""
    monkeypatch.setattr("ollama_async_mem.memory.ingest._REFUSALS", 1)
    server.enqueue("POST /api/chat", error(400, "bad request"), repeat=True)
    async with memory() as mem:
        result = await mem.add("x", user_id="a", infer="now")
    assert (result.extraction, str(result.error)[:11]) == ("failed", "bad request")


async def test_a_flush_ends_when_the_memory_closes(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """Waiting for facts while the memory is closed is an error, not a wait for ever."""
    server.enqueue("POST /api/chat", Raw([STALL]))
    async with asyncio.timeout(5):
        async with memory() as mem:
            await mem.add("x", user_id="a")
            await server.wait_until(lambda: len(server.requests_to("POST /api/chat")) == 1)
            flushing = asyncio.create_task(mem.flush())
            await asyncio.sleep(0.05)
        with pytest.raises(StoreClosed):
            await flushing
        with pytest.raises(StoreClosed):
            await mem.flush()


async def test_another_process_may_do_the_extraction(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """With `extract_here` off, jobs are queued and left alone."""
    async with memory(extract_here=False) as mem:
        assert (await mem.add("x", user_id="a")).extraction == "queued"
        assert await mem.flush() == 1
    assert server.requests_to("POST /api/chat") == []


async def test_lone_surrogates_are_replaced(memory: Callable[..., Memory]) -> None:
    """What is no character can be neither sent nor stored: it becomes the replacement character, in queries too."""
    async with memory() as mem:
        turn = (await mem.add({"content": "a \ud800 b", "name": "N\udfff"}, user_id="a", infer=False)).turns[0]
        assert (turn.text, turn.speaker) == ("a \ufffd b", "N\ufffd")
        assert len(await mem.search("b \ud800", user_id="a")) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"messages": None},
        {"messages": 5},
        {"messages": "x", "infer": "nwo"},
        {"messages": "x", "metadata": "text"},
        {"messages": "x", "timestamp": True},
        {"messages": "x", "timestamp": "0001-01-01T00:00:00+14:00"},
        {"messages": "x", "user_id": "u\ud800"},
    ],
)
async def test_wrong_arguments_are_named(memory: Callable[..., Memory], arguments: dict[str, Any]) -> None:
    """What cannot be stored is refused in words, before any request."""
    async with memory() as mem:
        with pytest.raises(ConfigError):
            await mem.add(**{"user_id": "a", **arguments})
        assert (await mem.count()).turns == 0


async def test_a_cancelled_caller_waits_for_the_remembering_only_so_long(
    memory: Callable[..., Memory], server: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A complete answer is stored although the caller was cancelled, unless the embedder hangs."""
    monkeypatch.setattr("ollama_async_mem.memory.chat._CANCELLED_S", 0.2)
    async with memory() as mem:

        async def chat() -> None:
            async with mem.chat("hello", user_id="a", infer=False) as stream:
                async for _ in stream.text():
                    pass
                await asyncio.sleep(60)

        for hangs in (False, True):
            task = asyncio.create_task(chat())
            await server.wait_until(lambda n=1 + hangs: len(server.requests_to("POST /api/chat")) == n)  # type: ignore[misc]
            await asyncio.sleep(0.1)
            if hangs:
                server.enqueue("POST /api/embed", Raw([STALL]))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(3):
                    await task
        assert (await mem.count()).turns == 2


async def test_a_chat_without_words_is_not_remembered(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """An answer of blanks is no exchange, and no error."""
    server.settings.answer = lambda _: " "
    async with memory() as mem:
        async with mem.chat("hello", user_id="a") as stream:
            assert "".join([piece async for piece in stream.text()]).strip() == ""
        assert stream.added is None
        assert (await mem.count()).turns == 0


async def test_memories_and_chats_are_opened_once(memory: Callable[..., Memory]) -> None:
    """A second opening is refused in words: what was closed with the first would be missing."""
    mem = memory()
    async with mem:
        chat = mem.chat("hello", user_id="a", infer=False)
        async with chat:
            pass
        with pytest.raises(ConfigError, match="opened once"):
            async with chat:
                pass
    with pytest.raises(ConfigError, match="opened once"):
        async with mem:
            pass


async def test_a_chat_can_wait_for_its_facts(memory: Callable[..., Memory]) -> None:
    """`infer="now"` in a chat tells how the extraction went, as `add` does."""
    async with memory() as mem:
        async with mem.chat("hello", user_id="a", infer="now") as stream:
            async for _ in stream.text():
                pass
        assert stream.added
        assert stream.added.extraction == "failed"


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.list(user_id="a", limit=10**20),
        lambda m: m.list(user_id="a", limit="5"),
        lambda m: m.list(user_id="a", cursor=5),
        lambda m: m.list(user_id="a", kinds=["note"]),
        lambda m: m.search("x", user_id="a", kinds=None),
        lambda m: m.context("x", user_id="a", max_tokens="many"),
        lambda m: m.count(user_id=5),
    ],
)
async def test_wrong_questions_are_named(memory: Callable[..., Memory], call: Callable[[Any], Any]) -> None:
    """Limits, cursors, kinds and ids of a wrong kind are refused before the store sees them."""
    async with memory() as mem:
        with pytest.raises(ConfigError):
            await call(mem)
        with pytest.raises(ConfigError):
            mem.chat("x", user_id="a", infer="zz")  # type: ignore[arg-type]
