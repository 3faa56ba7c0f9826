"""What `add` takes, and that it stores it once."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fakes import ScriptedOllama, error

from ollama_async_mem.errors import ConfigError, ModelOutputError, OllamaError, RecordNotFound
from ollama_async_mem.memory.intake import keyed_id
from ollama_async_mem.memory.messages import as_messages
from ollama_async_mem.records import Message, Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_async_mem import Memory

MAY = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("hi", Message(content="hi")),
        ({"content": "hi"}, Message(content="hi")),
        ({"role": "assistant", "content": "hi", "name": "Ann"}, Message(role="assistant", content="hi", name="Ann")),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Message(content="a\nb"),
        ),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
            Message(images=("https://x/y.png",)),
        ),
        ({"content": "see", "images": ["aGk="]}, Message(content="see", images=("aGk=",))),
        (
            {"role": "tool", "content": "21 C", "tool_name": "weather"},
            Message(role="tool", content="21 C", name="weather"),
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            Message(role="assistant", content='calls f({"a":1})'),
        ),
        ({"content": "hi", "timestamp": "2023-05-08T13:56:00Z"}, Message(content="hi", timestamp=MAY)),
        (SimpleNamespace(role="user", content="hi"), Message(content="hi")),
    ],
)
def test_messages_of_many_shapes_are_read(given: Any, read: Message) -> None:
    """Texts, mappings as OpenAI and Ollama have them, and objects."""
    assert as_messages([given]) == [read]


def test_instructions_are_not_remembered() -> None:
    """System prompts are the application's, not something that was said."""
    system = {"role": "system", "content": "You are helpful."}
    assert as_messages([system, "hi"]) == [Message(content="hi")]
    with pytest.raises(ConfigError, match=r"only .system. messages"):
        as_messages([system])


async def test_dates_are_resolved_against_the_time_of_the_message(memory: Callable[..., Memory]) -> None:
    """Each message has its own time, or that of the call; the text stays as it is."""
    async with memory() as mem:
        added = await mem.add(
            [
                "I went to a support group yesterday",
                {"content": "I went to a support group yesterday!", "timestamp": "2023-06-09T10:00:00+02:00"},
            ],
            user_id="caroline",
            timestamp=MAY,
            infer=False,
        )
        assert [t.dates[0].start for t in added.turns] == [date(2023, 5, 7), date(2023, 6, 8)]
        assert added.turns[0].text == "I went to a support group yesterday"
        assert (await mem.get(added.turns[0].id)) == added.turns[0]


async def test_the_same_words_again_are_not_stored_twice(memory: Callable[..., Memory]) -> None:
    """Of the same speaker in the same scope within the window; others are others."""
    async with memory() as mem:
        first = await mem.add("I like tea", user_id="alice", run_id="1", timestamp=MAY, infer=False)
        again = await mem.add("I like tea", user_id="alice", run_id="1", timestamp=MAY, infer=False)
        assert (again.turns, again.is_new, again.extraction) == (first.turns, False, "none")
        await mem.add("I like tea", user_id="alice", run_id="2", timestamp=MAY, infer=False)
        await mem.add(
            Message(content="I like tea", name="Bob"), user_id="alice", run_id="1", timestamp=MAY, infer=False
        )
        await mem.add("I like tea", user_id="alice", run_id="1", timestamp=MAY + timedelta(minutes=1), infer=False)
        assert (await mem.count()).turns == 4


async def test_what_was_deleted_can_be_added_again(memory: Callable[..., Memory]) -> None:
    """The window forgets what is deleted."""
    async with memory() as mem:
        first = await mem.add("I like tea", user_id="alice", infer=False)
        await mem.delete(first.turns[0].id)
        assert (await mem.add("I like tea", user_id="alice", infer=False)).is_new
        await mem.delete_all(user_id="alice")
        assert (await mem.add("I like tea", user_id="alice", infer=False)).is_new


async def test_concurrent_adds_of_the_same_words_are_one(memory: Callable[..., Memory]) -> None:
    """All of them return when the turn is durable."""
    async with memory() as mem:
        adds = await asyncio.gather(*(mem.add("only once", user_id="alice", infer=False) for _ in range(50)))
        assert len({added.turns[0].id for added in adds}) == 1
        assert sum(added.is_new for added in adds) == 1
        assert (await mem.count()).turns == 1


async def test_who_waited_for_an_add_that_failed_adds_itself(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """A failure is only its own caller's."""
    server.enqueue("POST /api/embed", error(400, "no"))
    async with memory() as mem:
        adds = await asyncio.gather(
            *(mem.add("only once", user_id="alice", infer=False) for _ in range(2)), return_exceptions=True
        )
        [failure] = [added for added in adds if isinstance(added, Exception)]
        assert isinstance(failure, OllamaError)
        assert (await mem.count()).turns == 1


async def test_a_key_makes_an_add_idempotent(memory: Callable[..., Memory]) -> None:
    """Also after the memory was closed, for several callers at once, and in each scope by itself."""
    async with memory() as mem:
        adds = await asyncio.gather(*(mem.add(["a", "b"], user_id="alice", key="m1", infer=False) for _ in range(20)))
        assert sum(added.is_new for added in adds) == 1
        assert len({tuple(t.id for t in added.turns) for added in adds}) == 1
        assert [turn.text for turn in adds[0].turns] == ["a", "b"]
    async with memory() as mem:
        again = await mem.add(["a", "b"], user_id="alice", key="m1", infer=False)
        assert (again.is_new, [turn.text for turn in again.turns]) == (False, ["a", "b"])
        assert (await mem.add("a", user_id="bob", key="m1", infer=False)).is_new
        assert (await mem.count()).turns == 3


def test_keyed_ids_sort_as_the_messages() -> None:
    """Neighbours of the same time come in the order of their ids."""
    ids = [keyed_id(Scope("u"), "k", n) for n in range(300)]
    assert ids == sorted(ids)
    assert keyed_id(Scope("u"), "k", 0) != keyed_id(Scope("v"), "k", 0) != keyed_id(Scope("v"), "l", 0)
    assert ids[0][14] == "8"


async def test_many_are_added_at_once(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """An import shares requests and transactions, keeps order, and tells how far it is."""
    told: list[tuple[int, int]] = []
    async with memory() as mem:
        added = await mem.add_many(
            ({"messages": f"note {n}", "user_id": f"u{n % 3}", "timestamp": MAY} for n in range(300)),
            infer=False,
            on_progress=lambda done, total: told.append((done, total)),
        )
        assert [a.turns[0].text for a in added] == [f"note {n}" for n in range(300)]
        assert told[-1] == (300, 300)
        assert (await mem.count(user_id="u1")).turns == 100
        assert len(server.requests_to("POST /api/embed")) < 30
        with pytest.raises(ConfigError, match=r"addition 2: .*blank"):
            await mem.add_many([{"messages": "x", "user_id": "u"}, {"messages": " ", "user_id": "u"}], infer=False)
        with pytest.raises(ConfigError, match=r"addition 1: .*colour"):
            await mem.add_many([{"messages": "x", "user_id": "u", "colour": 1}])


async def test_what_expires_is_gone(memory: Callable[..., Memory]) -> None:
    """It is not found from then on, and destroyed when the memory is opened next; so is what is imported too late."""
    async with memory() as mem:
        past = datetime.now(UTC) - timedelta(seconds=1)
        gone = await mem.add("gone soon", user_id="alice", timestamp=MAY, expires_at=past, infer=False)
        kept = await mem.add("gone later", user_id="alice", expires_at="2999-01-01", infer=False)
        assert [hit.id for hit in await mem.search("gone", user_id="alice")] == [kept.turns[0].id]
    async with memory() as mem:
        async with mem.events() as events:
            async for event in events:
                assert event.__class__.__name__ == "MemoriesDeleted"
                break
        with pytest.raises(RecordNotFound):
            await mem.get(gone.turns[0].id)


@pytest.mark.parametrize(
    "times",
    [
        {"expires_at": "2020-01-01"},
        {"expires_at": MAY, "timestamp": MAY},
        {"expires_at": "2023-05-01", "timestamp": MAY},
        {"expires_at": "2023-05-01", "timestamp": "2999-01-01"},
        {"expires_at": MAY, "messages": [{"content": "a", "timestamp": "2020-01-01"}, {"content": "b"}, "c"]},
    ],
)
async def test_what_has_expired_is_not_added(memory: Callable[..., Memory], times: dict[str, Any]) -> None:
    """Nobody means that; the error says both times."""
    added: dict[str, Any] = {"messages": "tea", "user_id": "alice", **times}
    if "messages" in times:
        times["messages"][1]["timestamp"] = MAY
    async with memory() as mem:
        with pytest.raises(ConfigError, match=r"expires_at is 20.*now is 20"):
            await mem.add(**added)
        with pytest.raises(ConfigError, match=r"addition 1: expires_at is 20.*now is 20"):
            await mem.add_many([added])
        assert (await mem.count()).turns == 0


async def test_messages_may_have_naive_times(memory: Callable[..., Memory]) -> None:
    """In a `Message` as in a mapping, they are taken as UTC."""
    async with memory() as mem:
        said = Message(content="tea", timestamp=MAY.replace(tzinfo=None))
        assert (await mem.add(said, user_id="alice", infer=False)).turns[0].at == MAY


async def test_images_are_described_in_words(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """By a model with vision; those by URL are not fetched."""
    server.settings.answer = lambda _: "A grey cat\non a sofa."
    async with memory(vision="llava") as mem:
        added = await mem.add({"content": "look!", "images": [b"PNG"]}, user_id="alice", infer=False)
        assert added.turns[0].text == "look!\n[image: A grey cat on a sofa.]"
        [asked] = server.requests_to("POST /api/chat")
        assert (asked.json["model"], asked.json["messages"][0]["images"]) == ("llava", ["UE5H"])
        by_url = {"content": [{"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}]}
        added = await mem.add(by_url, user_id="alice", infer=False)
        assert added.turns[0].text == "[image: https://example.org/cat.png]"


async def test_images_need_a_model_with_vision(memory: Callable[..., Memory]) -> None:
    """Without one the words are kept, and a message without words is refused."""
    async with memory() as mem:
        added = await mem.add({"content": "look!", "images": ["UE5H"]}, user_id="alice", infer=False)
        assert added.turns[0].text == "look!"
        with pytest.raises(ConfigError, match="vision="):
            await mem.add({"images": ["UE5H"]}, user_id="alice")


async def test_an_image_that_cannot_be_described_is_not_lost_silently(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """The failure is the caller's, and nothing is stored."""
    server.enqueue("POST /api/chat", error(500, "out of memory"), repeat=True)
    async with memory(vision="llava") as mem:
        with pytest.raises(OllamaError):
            await mem.add({"content": "look!", "images": [b"PNG"]}, user_id="alice")
        assert (await mem.count()).turns == 0


async def test_what_is_there_under_a_key_is_not_described_again(
    memory: Callable[..., Memory], server: ScriptedOllama
) -> None:
    """Who tries an add again waits for no model, be they away; under another key they are asked."""
    server.settings.answer = lambda _: "A grey cat."
    said: list[Any] = [{"role": "system", "content": "You see."}, {"content": "look!", "images": [b"PNG"]}, "nice"]
    async with memory(vision="llava") as mem:
        first = await mem.add(said, user_id="alice", key="m1", infer=False)
        server.enqueue("POST /api/chat", error(500, "out of memory"), repeat=True)
        again = await mem.add(said, user_id="alice", key="m1", infer=False)
        assert (again.turns, again.is_new) == (first.turns, False)
        assert len(server.requests_to("POST /api/chat")) == 1
        with pytest.raises(OllamaError):
            await mem.add(said, user_id="alice", key="m2", infer=False)


async def test_an_add_may_have_a_prompt_of_its_own(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """It is told to the model in the place of the usual instructions; adds with others are asked about apart."""
    server.settings.answer = lambda _: '{"facts": []}'
    async with memory(prompt="Only animals.") as mem:
        for n, prompt in enumerate((None, "Only what they eat.", None, "Only what they eat.")):
            await mem.add(f"I have {n} cats and olives", user_id="alice", prompt=prompt)
        assert await mem.flush() == 0
        asked = [request.json["messages"][0]["content"] for request in server.requests_to("POST /api/chat")]
        assert [text.startswith(("Only animals.", "Only what they eat.")) for text in asked] == [True] * len(asked)
        assert {text.partition(".")[0] for text in asked} == {"Only animals", "Only what they eat"}
        with pytest.raises(ConfigError, match="prompt"):
            await mem.add("x", user_id="alice", prompt=" ")


async def test_a_procedure_is_told_and_found(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """The messages are stored, and what the model tells of them is a fact that points at all of them."""
    server.settings.answer = lambda _: "1. Opened report.csv: 12 rows.\n2. Sent it to Ann."
    said = [{"role": "assistant", "content": "I open report.csv"}, {"role": "tool", "content": "12 rows"}]
    async with memory() as mem:
        fact = await mem.add_procedure(said, agent_id="clerk", run_id="7", metadata={"task": "report"})
        assert (fact.text.splitlines()[1], len(fact.turn_ids)) == ("2. Sent it to Ann.", 2)
        assert await mem.get(fact.id) == fact
        found = await mem.search("who got the report?", agent_id="clerk", filters={"procedure": True})
        assert [hit.id for hit in found] == [fact.id]
        server.settings.answer = lambda _: "  "
        with pytest.raises(ModelOutputError, match="stored"):
            await mem.add_procedure("I close report.csv", agent_id="clerk")
        assert (await mem.count()).turns == 3


async def test_a_procedure_has_a_key_and_an_end(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """Tried again under its key it is not told again, by however many at once; it expires with its messages."""
    server.settings.answer = lambda _: "1. Opened report.csv."
    told: dict[str, Any] = {"messages": ["I open report.csv", "12 rows"], "agent_id": "clerk", "key": "run 7"}
    async with memory() as mem:
        facts = await asyncio.gather(*(mem.add_procedure(**told, expires_at="2999-01-01") for _ in range(5)))
        assert len({fact.id for fact in facts}) == 1
        counts = await mem.count()
        assert (counts.turns, counts.facts) == (2, 1)
        turns = [await mem.get(turn_id) for turn_id in facts[0].turn_ids]
        assert {memory.expires_at for memory in (facts[0], *turns)} == {datetime(2999, 1, 1, tzinfo=UTC)}
        asked = len(server.requests_to("POST /api/chat"))
        assert await mem.add_procedure(**told) == facts[0] == await mem.get(facts[0].id)
        assert len(server.requests_to("POST /api/chat")) == asked
        assert (await mem.add_procedure(**told | {"key": "run 8"})).id != facts[0].id
        with pytest.raises(ConfigError, match="has passed"):
            await mem.add_procedure(**told | {"key": "run 9"}, expires_at=MAY)
        with pytest.raises(ConfigError, match="key"):
            await mem.add_procedure(**told | {"key": " "})


async def test_an_earlier_turn_must_still_be_there_as_it_was(memory: Callable[..., Memory]) -> None:
    """What expired or was changed meanwhile, or was added otherwise, does not stand for what is added now."""
    async with memory() as mem:
        soon = datetime.now(UTC) + timedelta(milliseconds=50)
        await mem.add("I like tea", user_id="alice", expires_at=soon, infer=False)
        kept = await mem.add("I like tea", user_id="alice", infer=False)
        assert (kept.is_new, kept.turns[0].expires_at) == (True, None)
        await mem.update(kept.turns[0].id, "I like coffee")
        assert (await mem.add("I like tea", user_id="alice", infer=False)).is_new
        assert (await mem.add("I like tea", user_id="alice", metadata={"a": 1}, infer=False)).is_new
        assert (await mem.add("I like tea", user_id="alice")).extraction == "queued"
        assert not (await mem.add("I like tea", user_id="alice")).is_new


async def test_a_retry_after_a_cancelled_add_does_not_double(memory: Callable[..., Memory]) -> None:
    """Wherever the first one was cancelled."""
    async with memory() as mem:
        for n in range(60):
            first = asyncio.create_task(mem.add(f"only once {n}", user_id="alice", infer=False))
            for _ in range(n // 2):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await mem.add(f"only once {n}", user_id="alice", infer=False)
        await mem.add("the last of all", user_id="alice", infer=False)  # what was on its way is in now
        page = await mem.list(user_id="alice", limit=200)
        texts = [memory.text for memory in page.items]
        assert sorted(texts) == sorted(set(texts))
        assert len(texts) == 61


@pytest.mark.parametrize("image", ["/etc/hostname", "not base64!", "file:///etc/hostname"])
async def test_a_message_cannot_name_a_file(memory: Callable[..., Memory], server: ScriptedOllama, image: str) -> None:
    """Messages come from anybody: nothing of the machine is read for them."""
    async with memory(vision="llava") as mem:
        for said in ({"images": [image]}, {"content": [{"type": "image_url", "image_url": {"url": image}}]}):
            with pytest.raises(ConfigError, match="base64"):
                await mem.add({"role": "user", **said}, user_id="alice")
    assert not server.requests_to("POST /api/chat")


@pytest.mark.parametrize("images", [5, "UE5H", [5], {"a": 1}])
def test_what_are_no_images_is_named(images: Any) -> None:
    """By the position of the message."""
    with pytest.raises(ConfigError, match=r"message 1.*images"):
        as_messages([{"content": "look", "images": images}])


async def test_a_message_without_a_time_was_said_when_the_one_before_was(memory: Callable[..., Memory]) -> None:
    """As in a conversation of which only the first message has a timestamp."""
    async with memory() as mem:
        said: list[Any] = [
            {"content": "a", "timestamp": MAY},
            {"content": "b"},
            {"content": "c", "timestamp": "2024-01-01"},
            "d",
        ]
        added = await mem.add(said, user_id="alice", infer=False)
        january = datetime(2024, 1, 1, tzinfo=UTC)
        assert [turn.at for turn in added.turns] == [MAY, MAY, january, january]
