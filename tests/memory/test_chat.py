"""Chats: what the model is given, and that a complete answer is remembered whatever happens to the caller."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from types import NoneType
from typing import TYPE_CHECKING, Any, Self

import anyio
import pytest
from fakes import LAST_CHUNK, STALL, Hold, Raw, Reply, ScriptedOllama, error, head, line_chunk, stream_head
from fakes.vectors import text_vector

from ollama_async_mem import Memory, Message, OllamaClient, RetryPolicy
from ollama_async_mem.errors import ConfigError, StatusError, StoreClosed
from ollama_async_mem.memory.courtesy import Courtesy

from .bench import copied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from fakes import Answer

    from ollama_async_mem.ports import Vector

CHAT, EMBED = "POST /api/chat", "POST /api/embed"
PNG = b"\x89PNG picture"


def held(hold: Hold) -> Callable[[Any], Raw]:
    """Vectors that come when the test releases them."""

    def reply(request: Any) -> Raw:
        vectors = [[1.0, *[0.0] * 255] for _ in request.json["input"]]
        body = json.dumps({"model": "m", "embeddings": vectors}).encode()
        return Raw([hold, head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))}), body])

    return reply


def released() -> Hold:
    """For vectors that come at once: those of the question."""
    hold = Hold()
    hold.release()
    return hold


async def read(mem: Memory, done: asyncio.Event | None = None, **options: Any) -> Any:
    """Chat to the end of the answer, and leave, or stay once `done` is set; returns the chat."""
    async with mem.chat("hello", user_id="a", **{"infer": False, **options}) as stream:
        async for _ in stream.text():
            pass
        if done:
            done.set()
            await asyncio.sleep(60)
    return stream


async def sent(server: ScriptedOllama, mem: Memory, messages: Any, **options: Any) -> list[dict[str, Any]]:
    """What the model was sent for a chat."""
    async with mem.chat(messages, user_id="a", **{"infer": False, **options}) as stream:
        async for _ in stream.text():
            pass
    found: list[dict[str, Any]] = server.requests_to(CHAT)[-1].json["messages"]
    return found


async def was_cancelled(task: asyncio.Task[Any]) -> bool:
    """Whether a task ends soon, and as cancelled."""
    await asyncio.wait([task], timeout=3)
    return task.cancelled()


async def count(memory: Callable[..., Memory]) -> int:
    """How many turns were stored, as whoever opens the store next sees it."""
    async with memory() as mem:
        return (await mem.count()).turns


async def test_a_caller_that_is_cancelled_while_it_remembers(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """A stop button that comes with the last token loses nothing, and the caller is still cancelled."""
    async with asyncio.timeout(10), memory() as mem:
        task = asyncio.create_task(read(mem))
        hold = Hold()
        server.enqueue(EMBED, held(released()), held(hold))
        await server.wait_until(lambda: len(server.requests_to(EMBED)) == 2)
        task.cancel()
        await asyncio.sleep(0)
        hold.release()
        assert await was_cancelled(task)
        assert (await mem.count()).turns == 2


async def test_closing_waits_for_what_a_cancelled_chat_stores(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """A caller that is cancelled again and again does not wait; the memory does, before it closes."""
    hold = Hold()
    async with asyncio.timeout(10):
        async with memory() as mem:
            task = asyncio.create_task(read(mem))
            server.enqueue(EMBED, held(released()), held(hold))
            await server.wait_until(lambda: len(server.requests_to(EMBED)) == 2)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.1, hold.release)
        assert task.cancelled()
        assert await count(memory) == 2


async def test_closing_waits_for_what_has_not_begun(memory: Callable[..., Memory]) -> None:
    """A memory that is closed in the very moment a chat is left is open until that is stored."""
    async with memory() as mem:
        chat = mem.chat("hello", user_id="a", infer=False)
        await chat.__aenter__()
        async for _ in chat.text():
            pass
        leaving = asyncio.create_task(chat.__aexit__(None, None, None))
        await asyncio.sleep(0)
    await leaving
    assert chat.error is None
    assert await count(memory) == 2


class Near:
    """An embedder that is a part of the program, and so no server's connection ends with the scope around it."""

    model = "near"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """Take a moment."""
        await asyncio.sleep(0.01)
        return [text_vector(text, 256) for text in texts]

    async def embed_query(self, text: str) -> Vector:
        """Take none."""
        return text_vector(text, 256)


async def test_a_scope_around_the_memory_and_the_chat_is_cancelled(memory: Callable[..., Memory]) -> None:
    """As with a timeout for all: the last exchange is stored before everything ends."""
    with anyio.CancelScope() as scope:
        async with memory(embedder=Near()) as mem, mem.chat("hello", user_id="a", infer=False) as stream:
            async for _ in stream.text():
                pass
            scope.cancel()
    assert scope.cancel_called
    async with memory(embedder=Near()) as mem:
        assert (await mem.count()).turns == 2


@pytest.mark.parametrize("how", ["native", "scope"])
async def test_a_cancellation_while_the_stream_is_left(memory: Callable[..., Memory], how: str) -> None:
    """Whether it comes by the task or by a scope, where it comes does not matter."""
    leaving = asyncio.Event()

    class Slow:
        model = "slow"

        async def generate(self, messages: Any, *, schema: Any = None) -> Any:
            raise NotImplementedError

        @asynccontextmanager
        async def stream(self, messages: Any) -> AsyncIterator[AsyncIterator[str]]:
            async def pieces() -> AsyncIterator[str]:
                yield "hi"

            yield pieces()
            leaving.set()
            await asyncio.sleep(60)

    async with asyncio.timeout(10), memory(llm=Slow(), extract_here=False) as mem:
        scope = anyio.CancelScope()

        async def chat() -> None:
            with scope:
                await read(mem)

        task = asyncio.create_task(chat())
        await leaving.wait()
        if how == "scope":
            scope.cancel()
        else:
            task.cancel()
        await asyncio.wait([task])
        assert (task.cancelled(), scope.cancelled_caught) == (how == "native", how == "scope")
        assert [m.text for m in (await mem.list(user_id="a")).items] == ["hi", "hello"]


async def test_half_an_answer_is_not_remembered(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """A caller that is cancelled between two tokens has stored nothing."""
    server.settings.token_interval_s = 30
    async with asyncio.timeout(10):
        async with memory() as mem:
            task = asyncio.create_task(read(mem))
            await server.wait_until(lambda: len(server.requests_to(CHAT)) == 1)
            await asyncio.sleep(0.05)
            task.cancel()
            assert await was_cancelled(task)
        assert await count(memory) == 0


async def test_the_limits_hold(
    memory: Callable[..., Memory], server: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedder that hangs holds up neither a chat nor the closing of the memory for ever, and is told of."""
    monkeypatch.setattr("ollama_async_mem.memory.chat._REMEMBER_S", 0.2)
    async with asyncio.timeout(5), memory() as mem:
        server.enqueue(EMBED, held(released()), Raw([STALL]))
        stream = await read(mem)
        assert stream.added is None
        assert "longer than 0.2 s" in str(stream.error)


async def test_a_failure_to_remember_is_no_error_of_the_chat(
    memory: Callable[..., Memory], server: ScriptedOllama, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer was given: what could not be stored is logged, and told in `error`."""
    client = OllamaClient(server.url, retry=RetryPolicy(attempts=1))
    async with client, memory(client=client) as mem:
        server.enqueue(EMBED, held(released()), error(500, "out of memory"))
        stream = await read(mem)
        assert (stream.answer, stream.added) == ("You said: hello", None)
        assert isinstance(stream.error, StatusError)
        assert "not remembered" in caplog.text
        again = await read(mem)  # the memory goes on
        assert (again.error, len(again.added.turns)) == (None, 2)


async def test_a_surprise_ends_neither_the_chat_nor_the_memory(
    memory: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that nobody foresaw is told like the others: the task is the memory's."""
    async with memory() as mem:

        async def broken(*_: Any, **__: Any) -> None:
            raise ValueError("surprise")

        with monkeypatch.context() as patch:
            patch.setattr(mem, "add", broken)
            stream = await read(mem)
        assert str(stream.error) == "surprise"
        assert len((await read(mem)).added.turns) == 2


async def test_a_chat_that_outlives_its_memory(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """It has given its answer, and says why that is not remembered."""
    async with OllamaClient(server.url) as client:
        async with memory(client=client) as mem:
            chat = mem.chat("hello", user_id="a", infer=False)
            await chat.__aenter__()
            async for _ in chat.text():
                pass
        await chat.__aexit__(None, None, None)
    assert isinstance(chat.error, StoreClosed)


async def test_whoever_leaves_by_an_error_does_not_wait_for_facts(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """With `infer="now"` a cancelled chat stores, and leaves the extraction to the background."""
    async with asyncio.timeout(5), memory() as mem:
        done = asyncio.Event()
        task = asyncio.create_task(read(mem, done, infer="now"))
        await done.wait()
        server.enqueue(CHAT, Raw([STALL]), repeat=True)
        task.cancel()
        assert await was_cancelled(task)
        assert (await mem.count()).turns == 2


async def test_the_model_is_given_all_that_the_application_says(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """Instructions, images, tool calls and their results; the memories stand behind the instructions."""
    messages: list[Any] = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "What do I like?"},
        {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": '{"at": "sea"}'}}]},
        {"role": "tool", "tool_name": "look", "content": "A ship."},
        Message(content="And what do I like to drink?", images=(PNG,)),
    ]
    async with memory() as mem:
        await mem.add("I like green tea", user_id="a", infer=False)
        system, asked, called, told, last = await sent(server, mem, messages)
    assert system["role"] == "system"
    assert system["content"].startswith("You are a pirate.\n\n")
    assert "<memories>\n[" in system["content"]
    assert "I like green tea" in system["content"]
    assert asked == {"role": "user", "content": "What do I like?"}
    assert called["tool_calls"] == [{"function": {"name": "look", "arguments": {"at": "sea"}}}]
    assert told == {"role": "tool", "content": "A ship.", "tool_name": "look"}
    picture = base64.b64encode(PNG).decode()
    assert last == {"role": "user", "content": "And what do I like to drink?", "images": [picture]}


async def test_instructions_are_neither_remembered_nor_lost_without_memories(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """A developer's message is a system message to Ollama; nothing of it is stored."""
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    async with memory() as mem:
        assert await sent(server, mem, messages) == [{"role": "system", "content": "Be brief."}, messages[1]]
        assert [m.text for m in (await mem.list(user_id="a", sort="at")).items] == ["hello", "You said: hello"]


async def test_a_question_that_is_an_image(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """The memory is asked for nothing, and the model sees the image; parts are read as OpenAI has them."""
    data = base64.b64encode(PNG).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    async with memory() as mem:
        for message in ({"role": "user", "content": "", "images": [data]}, {"role": "user", "content": [part]}):
            (last,) = await sent(server, mem, [message], remember=False)
            assert last == {"role": "user", "content": "", "images": [data]}
        assert server.requests_to(EMBED) == []
        remote = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
        (last,) = await sent(server, mem, [{"role": "user", "content": [remote]}], remember=False)
        assert last == {"role": "user", "content": "[image: https://example.org/a.png]"}


async def test_what_cannot_be_sent_is_refused_at_once(memory: Callable[..., Memory]) -> None:
    """Images that name files, arguments that are no JSON, and budgets out of range."""
    bad = {"function": {"name": "look", "arguments": "{"}}
    async with memory() as mem:
        with pytest.raises(ConfigError, match="image"):
            mem.chat([{"role": "user", "content": "x", "images": ["/etc/hostname"]}], user_id="a")
        with pytest.raises(ConfigError, match="no JSON"):
            mem.chat([{"role": "assistant", "tool_calls": [bad]}, "x"], user_id="a")
        with pytest.raises(ConfigError, match="min_score"):
            mem.chat("x", user_id="a", min_score=2)
        with pytest.raises(ConfigError, match="max_tokens"):
            mem.chat("x", user_id="a", max_tokens=0)


async def test_memories_that_have_nothing_to_do_with_a_question_stay_out(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """The prompt is not filled with whatever there is, unless that is asked for."""
    async with memory() as mem:
        await mem.add(["I live in Rome", "my shoes are red"], user_id="a", infer=False)
        assert len(await sent(server, mem, "compute 7 times 8", remember=False)) == 1
        system, _ = await sent(server, mem, "compute 7 times 8", remember=False, min_score=0)
        assert "my shoes are red" in system["content"]
        system, _ = await sent(server, mem, "which colour have my shoes?", remember=False)
        assert "my shoes are red" in system["content"]


def spoken(hold: Hold) -> Raw:
    """An answer of two words, the second of which comes when the test releases it."""
    one, two = ({"message": {"role": "assistant", "content": word}, "done": False} for word in ("Hello ", "there"))
    last = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    return Raw([stream_head(), line_chunk(one), hold, line_chunk(two), line_chunk(last), LAST_CHUNK])


def asked_for_facts(server: ScriptedOllama) -> int:
    """How often a model was."""
    return sum("format" in request.json for request in server.requests_to(CHAT))


async def test_a_chat_goes_before_extraction(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """While an answer is under way the model is asked for nothing else; once it is there, it is, still in the chat."""
    hold = Hold()
    server.settings.answer = copied
    server.enqueue(CHAT, spoken(hold))
    async with asyncio.timeout(10), memory(idle_s=0) as mem, mem.chat("hi", user_id="a", remember=False) as stream:
        pieces = stream.text()
        await anext(pieces)
        added = asyncio.create_task(mem.add("I own a boat", user_id="a", infer="now"))
        await server.wait_until(lambda: bool(server.requests_to(EMBED)))
        assert await asyncio.wait([added], timeout=0.3) == (set(), {added})
        assert asked_for_facts(server) == 0
        hold.release()
        assert [piece async for piece in pieces] == ["there"]
        await added
        assert asked_for_facts(server) == 1


@pytest.mark.parametrize("how", ["left", "cancelled", "failed"])
async def test_a_chat_that_ends_early_holds_nothing_up(
    memory: Callable[..., Memory], server: ScriptedOllama, how: str
) -> None:
    """Whether it is left in the middle, is cancelled while it is opened, or never begins."""
    answers: dict[str, Answer] = {"left": spoken(Hold()), "cancelled": Raw([STALL]), "failed": error(400, "no")}
    server.settings.answer = copied
    server.enqueue(CHAT, answers[how])

    async def chat(mem: Memory) -> None:
        async with mem.chat("hi", user_id="a", remember=False) as stream:
            await anext(stream.text())

    async with asyncio.timeout(10), memory(idle_s=0) as mem:
        task = asyncio.create_task(chat(mem))
        await server.wait_until(lambda: bool(server.requests_to(CHAT)))
        if how == "cancelled":
            task.cancel()
        (end,) = await asyncio.gather(task, return_exceptions=True)
        assert type(end) is {"left": NoneType, "cancelled": asyncio.CancelledError, "failed": StatusError}[how]
        await mem.add("I own a boat", user_id="a", infer="now")
        assert asked_for_facts(server) == 1


async def test_a_chat_that_stalls_starves_nobody(
    memory: Callable[..., Memory], server: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader may have gone: after a while without a word extraction goes on beside it."""
    monkeypatch.setattr("ollama_async_mem.memory.courtesy.STALLED_S", 0.2)
    server.settings.answer = copied
    server.enqueue(CHAT, spoken(Hold()))
    async with asyncio.timeout(10), memory(idle_s=0) as mem, mem.chat("hi", user_id="a", remember=False) as stream:
        await anext(stream.text())
        await mem.add("I own a boat", user_id="a", infer="now")
        assert asked_for_facts(server) == 1


async def test_one_answer_after_another_starves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit to the waiting, also where words come all the time; and each answer counts."""
    monkeypatch.setattr("ollama_async_mem.memory.courtesy.LONGEST_S", 0.2)
    courtesy = Courtesy()
    courtesy.begin()
    courtesy.begin()
    courtesy.end()
    began = anyio.current_time()
    with anyio.fail_after(5):
        await courtesy.wait()
    assert anyio.current_time() - began >= 0.2
    courtesy.end()
    monkeypatch.setattr("ollama_async_mem.memory.courtesy.LONGEST_S", 60)
    with anyio.fail_after(1):
        await courtesy.wait()


async def test_a_model_keeps_the_instructions_of_its_own(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """The server drops them where a conversation has others: so they stand before the memories."""
    server.enqueue("POST /api/show", Reply(json={"system": "You are a pirate."}), repeat=True)
    async with memory() as mem:
        await mem.add("I'm allergic to peanuts", user_id="a", infer=False)
        (system, _) = await sent(server, mem, "peanuts?", remember=False)
        assert system["content"].startswith("You are a pirate.\n\n")
        assert "allergic" in system["content"]
        own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "peanuts?"}]
        (system, _) = await sent(server, mem, own, remember=False)
        assert system["content"].startswith("Be brief.\n\n")


async def test_extraction_waits_for_answers_from_elsewhere(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """A program that asks the same model past the memory can say so."""
    async with memory(idle_s=0.0) as mem:
        with mem.answering() as go_on:
            await mem.add("I'm allergic to peanuts", user_id="a")
            go_on()
            await asyncio.sleep(0.2)
            assert not server.requests_to(CHAT)
        await mem.flush()
        assert server.requests_to(CHAT)
