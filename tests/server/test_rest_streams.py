"""Answers in pieces: chat, events and pulls, over sockets whose clients read slowly, leave, or stay for ever."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from fakes import STALL, Hold, Raw, ScriptedOllama, Stream, line_chunk, ndjson, stream_head

from ollama_async_mem.server.access import Principal
from ollama_async_mem.server.rest import rest_app, watching
from server.running import client_of, seen_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx
    import pytest

    from ollama_async_mem import Memory

API = "/api/v1"
HI = {"messages": "What do I like?", "user_id": "alice"}
SSE = {"accept": "text/event-stream"}


def token(text: str) -> dict[str, Any]:
    """A line of Ollama's answer."""
    return {"model": "llama3.2", "message": {"role": "assistant", "content": text}, "done": False}


@asynccontextmanager
async def streaming(client: httpx.AsyncClient, path: str, body: Any = None) -> AsyncIterator[AsyncIterator[Any]]:
    """The events of a stream, as lines of JSON; what is not read by the end is left."""
    method = "GET" if body is None else "POST"
    headers = {"accept": "application/x-ndjson"}
    async with client.stream(method, f"{API}{path}", json=body, headers=headers) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        yield (json.loads(line) async for line in answer.aiter_lines() if line)


async def test_a_chat_recalls_answers_and_remembers(rest: httpx.AsyncClient, memory: Memory) -> None:
    """First what was recalled, then the pieces, then the ids of what was stored."""
    added = await memory.add("I like green tea", user_id="alice", infer=False)
    async with streaming(rest, "/chat", HI) as events:
        first, *tokens, last = [event async for event in events]
    assert first["event"] == "recalled"
    assert "I like green tea" in first["text"]
    assert first["hits"] == []
    assert "".join(event["text"] for event in tokens) == "You said: What do I like?"
    assert (last["event"], last["error"], len(last["turn_ids"]), last["job_id"] is None) == ("done", None, 2, False)
    assert [turn.text for turn in await memory.store.get_many(last["turn_ids"])] == [
        "What do I like?",
        "You said: What do I like?",
    ]
    async with streaming(rest, "/chat", {**HI, "messages": "Which tea?", "explain": True, "remember": False}) as events:
        first, *_, last = [event async for event in events]
    assert added.turns[0].id in [hit["memory"]["id"] for hit in first["hits"]]
    assert all(hit["parts"] and hit["score"] > 0 for hit in first["hits"])
    assert len(first["hits"]) == len(first["text"].splitlines())
    assert (last["turn_ids"], last["error"]) == ([], None)


async def test_a_chat_as_server_sent_events(rest: httpx.AsyncClient) -> None:
    """Where the Accept header says so; each event has its name."""
    answer = await rest.post(f"{API}/chat", json=HI, headers=SSE)
    assert answer.headers["content-type"] == "text/event-stream"
    events = [event.split("\n") for event in answer.text.removesuffix("\n\n").split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    assert names == ["recalled", *["token"] * 6, "done"]
    assert [json.loads(data.removeprefix("data: "))["event"] for _, data in events] == names


async def test_a_stream_that_breaks_says_so(rest: httpx.AsyncClient, server: ScriptedOllama, memory: Memory) -> None:
    """The last event is a problem, and nothing of half an answer is remembered."""
    server.enqueue("POST /api/chat", ndjson(token("Tea"), {"error": "out of memory"}))
    async with streaming(rest, "/chat", HI) as events:
        *_, before, last = [event async for event in events]
    assert (before, last["event"]) == ({"event": "token", "text": "Tea"}, "error")
    assert last["problem"]["status"] == 502
    assert "out of memory" in last["problem"]["detail"]
    assert (await memory.count()).turns == 0


async def test_who_leaves_stops_the_model(rest: httpx.AsyncClient, server: ScriptedOllama, memory: Memory) -> None:
    """The connection to Ollama is closed at once, which is how its work ends; nothing is remembered."""
    server.enqueue("POST /api/chat", Raw([stream_head(), line_chunk(token("Tea")), STALL]))
    async with streaming(rest, "/chat", HI) as events:
        assert [(await anext(events))["event"] for _ in range(2)] == ["recalled", "token"]
        busy = server.open_connections
        left_at = time.monotonic()
    await server.wait_until(lambda: server.open_connections < busy, timeout_s=2)
    assert time.monotonic() - left_at < 0.3  # of which 0.1 are the server's; the rest is for a busy machine
    assert (await memory.count()).turns == 0
    async with streaming(rest, "/chat", HI) as events:
        assert [event async for event in events][-1]["event"] == "done"


async def test_who_leaves_before_the_first_token_stops_the_model(
    rest: httpx.AsyncClient, server: ScriptedOllama
) -> None:
    """Also while the model is still loading, or reading the prompt."""
    server.enqueue("POST /api/chat", Raw([STALL]))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: rest.post(f"{API}/chat", json=HI))
        await server.wait_until(lambda: bool(server.requests_to("POST /api/chat")))
        busy = server.open_connections
        tasks.cancel_scope.cancel()
    await server.wait_until(lambda: server.open_connections < busy, timeout_s=2)


async def test_who_reads_slowly_slows_the_model_down(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """What the client does not take is not asked for: buffers are bounded from end to end."""
    said: list[int] = [0]

    def endless() -> Iterator[Any]:
        while True:
            said[0] += 65_536
            yield token("x" * 65_536)

    server.enqueue("POST /api/chat", Stream(endless()))
    async with streaming(rest, "/chat", HI) as events:
        assert (await anext(events))["event"] == "recalled"
        before, now = -1, 0
        with anyio.fail_after(20):
            while now != before:
                await anyio.sleep(0.3)
                before, now = now, said[0]
    assert now < 100_000_000


async def test_many_chats_at_once(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """Each gets its own answer, whole."""
    server.settings.token_interval_s = 0.01
    lasts: list[str] = []

    async def chat(n: int) -> None:
        async with streaming(rest, "/chat", {"messages": f"number {n}", "user_id": f"u{n}"}) as events:
            _, *tokens, last = [event async for event in events]
        assert "".join(event["text"] for event in tokens) == f"You said: number {n}"
        lasts.append(last["event"])

    async with anyio.create_task_group() as tasks:
        for n in range(40):
            tasks.start_soon(chat, n)
    assert lasts == ["done"] * 40


async def test_events_are_told_as_they_happen(rest: httpx.AsyncClient, memory: Memory) -> None:
    """Of the scope that is asked for, from when the stream has begun."""
    async with streaming(rest, "/events?user_id=alice") as events:
        await memory.add("not for her", user_id="bob", infer=False)
        added = await memory.add("tea", user_id="alice", infer=False)
        await memory.update(added.turns[0].id, "green tea")
        await memory.delete(added.turns[0].id)
        await memory.delete_all(user_id="alice")
        seen = [await anext(events) for _ in range(4)]
    assert [event["type"] for event in seen] == ["turn_stored", "memory_updated", "memory_deleted", "memories_deleted"]
    assert (seen[0]["turn"]["text"], seen[1]["memory"]["text"]) == ("tea", "green tea")


async def test_silence_is_broken_by_signs_of_life(rest: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """As comments, which readers of server-sent events skip."""
    monkeypatch.setattr(watching, "HEARTBEAT_S", 0.01)
    async with rest.stream("GET", f"{API}/events") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.aiter_lines()
        assert [await anext(lines) for _ in range(6)] == [":", ""] * 3


async def test_a_key_sees_its_own_events_only(memory: Memory) -> None:
    """Whatever it asks for."""
    bob = Principal(name="bob", user_id="bob")
    async with client_of(rest_app(memory), bob) as client, streaming(client, "/events") as events:
        await memory.add("hers", user_id="alice", infer=False)
        await memory.delete_all(user_id="alice")
        await memory.add("his", user_id="bob", infer=False)
        assert (await anext(events))["turn"]["text"] == "his"
        assert (await client.get(f"{API}/events", params={"user_id": "alice"})).status_code == 403


async def test_events_end_when_the_server_does(memory: Memory) -> None:
    """In good order, at once, while others go on."""
    stopping = anyio.Event()
    async with client_of(rest_app(memory, stopping=stopping)) as client, streaming(client, "/events") as events:
        stopping.set()
        assert [event async for event in events] == []
        async with streaming(client, "/events") as late:
            assert [event async for event in late] == []


async def test_a_pull_tells_how_far_it_is(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """Bytes over all layers, and the end."""
    async with streaming(rest, "/models/pull", {"model": "phi"}) as events:
        *steps, last = [event async for event in events]
    assert {step["event"] for step in steps} == {"progress"}
    assert (1000, 1000) in [(step["progress"]["completed"], step["progress"]["total"]) for step in steps]
    assert last == {"event": "done", "model": "phi"}
    assert "phi:latest" in server.settings.models


async def test_a_pull_that_fails_says_why(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """As the last event, or with a status where nothing was told before."""
    missing = {"error": "pull model manifest: file does not exist"}
    server.enqueue("POST /api/pull", ndjson({"status": "pulling manifest"}, missing), ndjson(missing))
    async with streaming(rest, "/models/pull", {"model": "phi"}) as events:
        *_, last = [event async for event in events]
    assert (last["event"], "file does not exist" in last["problem"]["detail"]) == ("error", True)
    refused = await rest.post(f"{API}/models/pull", json={"model": "phi"})
    assert (refused.status_code, "file does not exist" in refused.json()["detail"]) == (502, True)


async def test_who_leaves_stops_the_pull(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """Ollama keeps what it has, and goes on from there the next time."""
    hold = Hold()
    status = line_chunk({"status": "pulling manifest"})
    server.enqueue("POST /api/pull", Raw([stream_head(), status, hold]))
    async with streaming(rest, "/models/pull", {"model": "phi"}) as events:
        await anext(events)
        busy = server.open_connections
    await server.wait_until(lambda: server.open_connections < busy)
    hold.release()


async def test_a_chat_that_is_not_remembered_needs_no_right_to_write(memory: Memory) -> None:
    """A key that may only read may ask the model, but leaves nothing behind."""
    reader = Principal(name="reader", may_write=False)
    async with client_of(seen_by(rest_app(memory), reader)) as client:
        assert (await client.post(f"{API}/chat", json=HI)).status_code == 403
        assert (await client.post(f"{API}/chat", json={**HI, "remember": False})).status_code == 200
    assert (await memory.count()).turns == 0
