"""The memory of the proxy: what a chat is given, what is kept of it, and whose it is; the official clients use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import ollama
import openai
import pytest
from fakes import Hold, Raw, Reply, chunk, go_json, head

from ollama_async_mem.errors import StoreError
from ollama_async_mem.server.proxy import remembering

from .proxying import CHUNKED, EVENTS, NDJSON, Proxied, chat_lines, event_stream, proxied, raw_answer
from .running import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fakes import Answer, ScriptedOllama

TEA = "My favourite tea is Darjeeling from the corner shop."
ASK = "Which tea is my favourite?"
HI = [{"role": "user", "content": ASK}]
SAID = "It is Darjeeling."
WHOLE = go_json({"model": "m", "message": {"role": "assistant", "content": SAID}, "done": True, "done_reason": "stop"})
CALL = {"function": {"name": "brew", "arguments": {"tea": "Darjeeling"}}}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "brew",
        "description": "Brew a tea.",
        "parameters": {"type": "object", "properties": {"tea": {"type": "string"}}, "required": ["tea"]},
    },
}
SCHEMA = {"type": "object", "properties": {"tea": {"type": "string"}}, "required": ["tea"]}


@pytest.fixture
async def proxy(server: ScriptedOllama, tmp_path: Path) -> AsyncIterator[Proxied]:
    """A proxy that knows a tea."""
    async with held(proxied(server, tmp_path)) as opened:
        await opened.memory.add(TEA, user_id="default")
        yield opened


def completion(message: dict[str, Any], finish: str = "stop") -> bytes:
    """An answer of OpenAI's."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return go_json({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def told(proxy: Proxied, route: str = "POST /api/chat") -> str:
    """The instructions of the last request, which hold the memories."""
    first = proxy.sent(route)["messages"][0]
    assert first["role"] == "system"
    return str(first["content"])


async def nothing_kept(proxy: Proxied) -> bool:
    """Whether only the tea is known, after what was begun is done; a marker of a remembered chat tells when."""
    proxy.ollama.enqueue("POST /api/chat", raw_answer(WHOLE, CHUNKED, piece=9))
    await proxy.chat("The marker is blue.")
    return await proxy.turns(3) == [TEA, "The marker is blue.", SAID]


# --- what a chat is given and what is kept ------------------------------------------------------------------------


async def test_a_chat_recalls_and_is_remembered(proxy: Proxied) -> None:
    """The memory stands in the request, the ids in the headers, and both messages are kept; the reply is unchanged."""
    proxy.ollama.enqueue("POST /api/chat", raw_answer(WHOLE, {"Content-Type": "application/json"}))
    reply = await proxy.chat(ASK)
    assert reply.content == WHOLE
    known = [memory.id for memory in (await proxy.memory.list(user_id="default", sort="at")).items]
    assert reply.headers["x-memory-recalled"] == "1"
    assert reply.headers["x-memory-ids"] == known[0]
    assert TEA in told(proxy)
    assert "<memories>" in told(proxy)
    assert proxy.sent()["messages"][1:] == HI
    assert await proxy.turns(3) == [TEA, ASK, SAID]
    roles = [memory.role for memory in (await proxy.memory.list(user_id="default", sort="at")).items]  # type: ignore[union-attr]
    assert roles == ["user", "user", "assistant"]


async def test_all_else_of_a_request_keeps_its_bytes(proxy: Proxied) -> None:
    """Fields nobody knows, long numbers, tools, images and escapes go through as they were."""
    fields = (
        b'"model" : "llama3.2","options":{"seed":12345678901234567890123,"x":1.0e-07},"tools":[{"a":"\\u00e9"}],'
        b'"think":"high","made_up":{"b":[1 ,2]},"keep_alive":-1,"stream":false'
    )
    message = b'{"images":["QUJD"],"content":"Which tea is my \\u0066avourite?","role":"user","extra":1.50}'
    await proxy.http.post(f"{proxy.url}/api/chat", content=b'{"messages":[' + message + b"]," + fields + b"}")
    body = proxy.ollama.requests_to("POST /api/chat")[0].body
    assert message in body
    for kept in (b"12345678901234567890123", b"1.0e-07", b'{"a":"\\u00e9"}', b'{"b":[1 ,2]}', b'"keep_alive":-1'):
        assert kept in body
    assert TEA.encode() in body


@pytest.mark.parametrize("content", ["Be brief.", [{"type": "text", "text": "Be brief."}]], ids=["text", "parts"])
async def test_memories_stand_behind_the_instructions(proxy: Proxied, content: Any) -> None:
    """In the same message, as many models read only one; what the prompt has already is not told again."""
    messages = [{"role": "system", "content": content, "name": "x"}, *HI]
    await proxy.http.post(f"{proxy.url}/v1/chat/completions", json={"model": "m", "messages": messages})
    first, *others = proxy.sent("POST /v1/chat/completions")["messages"]
    assert others == HI
    assert first["name"] == "x"
    text = first["content"] if isinstance(content, str) else "\n".join(part["text"] for part in first["content"])
    assert text.startswith("Be brief.")
    assert TEA in text
    known = [{"role": "user", "content": TEA}, {"role": "assistant", "content": "ok"}, *HI]
    reply = await proxy.http.post(f"{proxy.url}/api/chat", json={"model": "m", "messages": known, "stream": False})
    assert reply.headers["x-memory-recalled"] == "0"
    assert proxy.sent()["messages"] == known


async def test_a_model_keeps_the_instructions_of_its_own(proxy: Proxied) -> None:
    """Ollama drops them for those of a request: so they stand before the memories."""
    proxy.ollama.enqueue("POST /api/show", Reply(json={"system": "You are a pirate."}), repeat=True)
    await proxy.chat(ASK)
    assert told(proxy).startswith("You are a pirate.\n\n")
    await proxy.chat(ASK)
    assert len(proxy.ollama.requests_to("POST /api/show")) == 1
    await proxy.http.post(f"{proxy.url}/api/generate", json={"model": "llama3.2", "prompt": ASK})
    assert proxy.sent("POST /api/generate")["system"].startswith("You are a pirate.\n\n")
    own = {"model": "m", "prompt": ASK, "system": "Be brief."}
    await proxy.http.post(f"{proxy.url}/api/generate", json=own)
    assert proxy.sent("POST /api/generate")["system"].startswith("Be brief.\n\n")


async def test_the_same_message_again_is_kept_once(proxy: Proxied) -> None:
    """Whoever sends the history again, or asks again, does not double it."""
    for _ in range(2):
        await proxy.chat("My bike is green.")
    history = [{"role": "user", "content": "My bike is green."}, {"role": "assistant", "content": "Nice."}]
    newest = {"role": "user", "content": "And my car is red."}
    await proxy.http.post(f"{proxy.url}/api/chat", json={"model": "m", "messages": [*history, newest]})
    texts = await proxy.turns(5)
    assert texts == [TEA, "My bike is green.", "You said: My bike is green.", newest["content"], texts[4]]
    assert texts[4] == f"You said: {newest['content']}"


ASIDE: dict[str, tuple[str, dict[str, Any]]] = {
    "load": ("/api/chat", {"messages": []}),
    "load by name": ("/api/generate", {"keep_alive": 5}),
    "empty prompt": ("/api/generate", {"prompt": ""}),
    "raw": ("/api/generate", {"prompt": "<s>" + ASK, "raw": True}),
    "gap": ("/api/generate", {"prompt": "def tea():", "suffix": "return tea"}),
    "embed": ("/api/embed", {"input": ASK}),
    "only an image": ("/api/chat", {"messages": [{"role": "user", "content": "", "images": ["QUJD"]}]}),
    "only instructions": ("/api/chat", {"messages": [{"role": "system", "content": ASK}]}),
    "no messages": ("/api/chat", {"messages": 7}),
    "odd message": ("/api/chat", {"messages": [{"role": 1, "content": ASK}]}),
    "odd content": ("/v1/chat/completions", {"messages": [{"role": "user", "content": {"a": 1}}]}),
    "odd format": ("/v1/chat/completions", {"messages": HI, "response_format": 5}),
    "completions": ("/v1/completions", {"prompt": ASK}),
}


@pytest.mark.parametrize("name", ASIDE)
async def test_what_is_no_chat_passes_as_it_is(proxy: Proxied, name: str) -> None:
    """No header, no changed byte, nothing kept."""
    path, fields = ASIDE[name]
    body = json.dumps({"model": "llama3.2", "stream": False, **fields}, indent=1).encode()
    proxy.ollama.enqueue(f"POST {path}", raw_answer(WHOLE, {"Content-Type": "application/json"}))
    reply = await proxy.http.post(proxy.url + path, content=body)
    assert "x-memory" not in reply.headers
    assert proxy.ollama.requests_to(f"POST {path}")[-1].body == body
    assert await nothing_kept(proxy)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"messages":' + b"[" * 5000, b'"x"', b'{"a":1}'])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/v1/chat/completions"])
async def test_what_cannot_be_read_is_for_the_server_to_refuse(proxy: Proxied, path: str, body: bytes) -> None:
    """It gets the very bytes."""
    proxy.ollama.enqueue(f"POST {path}", Reply(400, json={"error": "no"}))
    reply = await proxy.http.post(proxy.url + path, content=body)
    assert (reply.status_code, reply.json()) == (400, {"error": "no"})
    assert proxy.ollama.requests_to(f"POST {path}")[0].body == body


async def test_memory_is_switched_off_for_a_request(proxy: Proxied) -> None:
    """In any case of letters."""
    for word in ("off", "OFF", "Off"):
        reply = await proxy.chat(ASK, x_memory=word)
        assert "x-memory-recalled" not in reply.headers
        assert proxy.sent()["messages"] == HI
    assert await nothing_kept(proxy)


UNFINISHED: dict[str, Answer] = {
    "cut off": Raw([head(200, NDJSON), chunk(chat_lines("It ", "is").rsplit(b"\n", 2)[0]), b"0\r\n\r\n"]),
    "error line": raw_answer(chat_lines("It") + b'{"error":"out of memory"}\n', piece=500),
    "error": Reply(500, json={"error": "no"}),
    "nothing said": raw_answer(chat_lines(""), piece=500),
    "tool call": raw_answer(
        go_json({"message": {"content": "Wait.", "tool_calls": [CALL]}, "done": True}), CHUNKED, piece=50
    ),
    "no json": raw_answer(b"\xff{", {"Content-Type": "application/json"}),
    "events without an end": raw_answer(event_stream({"content": "x"}).replace(b"[DONE]", b""), EVENTS, piece=500),
    "text": Reply(body=WHOLE, headers={"Content-Type": "text/html"}),
}


@pytest.mark.parametrize("name", UNFINISHED)
async def test_an_answer_that_is_not_complete_is_not_kept(proxy: Proxied, name: str) -> None:
    """Nor is one that only calls tools: the model goes on behind it."""
    proxy.ollama.enqueue("POST /api/chat", UNFINISHED[name])
    await proxy.chat("This is not kept.")
    assert await nothing_kept(proxy)


async def test_a_client_that_leaves_in_mid_stream_leaves_nothing_half(proxy: Proxied) -> None:
    """The model stops, and what had come of the answer is not taken for all of it."""
    proxy.ollama.enqueue("POST /api/chat", Raw([head(200, NDJSON), chunk(chat_lines("It")[:80]), Hold()]))
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": "Half."}]}
    async with proxy.http.stream("POST", f"{proxy.url}/api/chat", json=body) as response:
        await anext(response.aiter_raw())
        busy = proxy.ollama.open_connections
    await proxy.ollama.wait_until(lambda: proxy.ollama.open_connections < busy, 0.1)
    assert await nothing_kept(proxy)


# --- whose memory it is -------------------------------------------------------------------------------------------


async def test_who_is_named_by_header_path_or_nobody(proxy: Proxied) -> None:
    """The header before the path, the path before the default; each has a memory of their own."""
    asked = "The rain is warm today."
    await proxy.chat(asked, path="/u/alice/api/chat")
    await proxy.chat(asked, path="/u/al%20ice%2Fx/api/chat")
    await proxy.chat(asked, path="/u/alice/api/chat", x_memory_user="bob", x_memory_agent="cook", x_memory_run="r1")
    for user in ("alice", "al ice/x", "bob"):
        assert await proxy.turns(2, user) == [asked, f"You said: {asked}"]
    page = await proxy.memory.list(user_id="bob")
    assert {(memory.scope.agent_id, memory.scope.run_id) for memory in page.items} == {("cook", "r1")}
    assert await proxy.turns(1) == [TEA]
    assert {request.target for request in proxy.ollama.requests_to("POST /api/chat")} == {"/api/chat"}
    assert (await proxy.http.get(f"{proxy.url}/u/alice")).text == "Ollama is running"


async def test_a_key_is_its_user(server: ScriptedOllama, tmp_path: Path) -> None:
    """It cannot be used for another, whoever is named; one that may only read recalls and keeps nothing."""
    keys: dict[str, dict[str, Any]] = {
        "alice": {"user_id": "alice"},
        "reader": {"user_id": "alice", "may_write": False},
        "any": {},
    }
    async with proxied(server, tmp_path, keys) as proxy:
        await proxy.memory.add(TEA, user_id="alice")
        assert (await proxy.chat(ASK)).status_code == 401
        for named in ({"x_memory_user": "bob"}, {"path": "/u/bob/api/chat"}):
            refused = await proxy.chat(ASK, **named, **proxy.show("alice"))
            assert refused.status_code == 403
            assert "bound to another user" in refused.json()["error"]
        assert not server.requests_to("POST /api/chat")
        for name, recalled in (("reader", "1"), ("any", "0")):
            assert (await proxy.chat(ASK, **proxy.show(name))).headers["x-memory-recalled"] == recalled
        assert await proxy.turns(2) == [ASK, f"You said: {ASK}"]
        assert await proxy.turns(1, "alice") == [TEA]
        on_path = await proxy.http.post(
            f"{proxy.url}/{proxy.secrets['alice']}/api/chat", json={"model": "m", "messages": HI}
        )
        assert on_path.status_code == 200
        assert all("oam_" not in f"{request.target}{request.headers}" for request in server.requests)


# --- a memory that fails ------------------------------------------------------------------------------------------


async def test_a_memory_that_fails_does_not_fail_the_chat(
    proxy: Proxied, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on without, and says so."""
    await proxy.memory.aclose()
    reply = await proxy.chat(ASK)
    assert (reply.status_code, reply.headers["x-memory"]) == (200, "failed")
    assert reply.json()["message"]["content"] == f"You said: {ASK}"
    assert proxy.sent()["messages"] == HI
    assert "a chat goes on without memories" in caplog.text
    assert TEA not in caplog.text


async def test_a_memory_that_is_slow_is_waited_for_2_seconds(proxy: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the chat goes on without."""
    monkeypatch.setattr(remembering, "RECALL_S", 0.1)
    proxy.ollama.settings.embed_latency_s = 5
    with anyio.fail_after(2):
        reply = await proxy.chat(ASK)
    assert (reply.status_code, reply.headers["x-memory"]) == (200, "failed")


async def test_what_cannot_be_kept_is_told_in_the_log(
    proxy: Proxied, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The chat was answered; a store that is full then is the log's business."""
    failed = anyio.Event()

    async def add_turns(*_: Any, **__: Any) -> None:
        failed.set()
        raise StoreError("the disk is full")

    monkeypatch.setattr(proxy.memory.store, "add_turns", add_turns)
    assert (await proxy.chat(ASK)).status_code == 200
    with anyio.fail_after(5):
        await failed.wait()
        while "an exchange was not remembered: the disk is full" not in caplog.text:  # noqa: ASYNC110 - of a log
            await anyio.sleep(0.001)


async def test_what_is_being_kept_is_waited_for_at_the_end(server: ScriptedOllama, tmp_path: Path) -> None:
    """A server that ends right behind an answer has it in its store."""
    server.settings.embed_latency_s = 0.2
    async with proxied(server, tmp_path) as proxy:
        await proxy.chat("Kept at the last moment.", x_memory_user="zoe")
    server.settings.embed_latency_s = 0
    async with proxied(server, tmp_path) as again:
        assert (await again.turns(2, "zoe"))[0] == "Kept at the last moment."


# --- the official clients -----------------------------------------------------------------------------------------


async def test_the_client_of_ollama(proxy: Proxied) -> None:
    """Whole and streamed, chat and generate, with the user in the address; an error is shown as from Ollama."""
    client = ollama.AsyncClient(host=f"{proxy.url}/u/ann", trust_env=False)
    await proxy.memory.add(TEA, user_id="ann")
    whole = await client.chat("llama3.2", HI)
    assert whole.message.content == f"You said: {ASK}"
    parts = [part.message.content async for part in await client.chat("llama3.2", HI, stream=True)]
    assert "".join(filter(None, parts)) == f"You said: {ASK}"
    assert TEA in told(proxy)
    assert (await client.generate("llama3.2", "Say tea.")).response == "You said: Say tea."
    pieces = [part.response async for part in await client.generate("llama3.2", "Say milk.", stream=True)]
    assert "".join(filter(None, pieces)) == "You said: Say milk."
    expected = {TEA, ASK, f"You said: {ASK}", "Say tea.", "You said: Say tea.", "Say milk.", "You said: Say milk."}
    assert set(await proxy.turns(7, "ann")) == expected
    assert (await client.embed("nomic-embed-text", "x")).embeddings
    assert next(model.model for model in (await client.list()).models) == "llama3.2:latest"
    proxy.ollama.enqueue("POST /api/chat", Reply(404, json={"error": "model 'x' not found"}))
    with pytest.raises(ollama.ResponseError, match="model 'x' not found"):
        await client.chat("x", HI)
    await proxy.ollama.stop()
    with pytest.raises(ollama.ResponseError, match="ollama serve"):
        await client.chat("llama3.2", HI)
    await client._client.aclose()


async def test_the_client_of_ollama_with_tools_and_formats(proxy: Proxied) -> None:
    """A tool call comes whole, its result leads to the answer that is kept; a structured answer is the program's."""
    client = ollama.AsyncClient(host=proxy.url, trust_env=False)
    call = {"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": [CALL]}, "done": True}
    structured = {**call, "message": {"role": "assistant", "content": '{"tea":"Darjeeling"}'}}
    proxy.ollama.enqueue("POST /api/chat", Reply(json=call))
    messages: list[Any] = [{"role": "user", "content": "Brew my tea."}]
    first = await client.chat("m", messages, tools=[TOOL])
    assert first.message.tool_calls is not None
    assert first.message.tool_calls[0].function.arguments == {"tea": "Darjeeling"}
    assert proxy.sent()["tools"][0]["function"]["name"] == "brew"
    messages += [first.message, {"role": "tool", "content": "brewed", "tool_name": "brew"}]
    proxy.ollama.enqueue("POST /api/chat", Reply(json=json.loads(WHOLE)), Reply(json=structured))
    assert (await client.chat("m", messages, tools=[TOOL])).message.content == SAID
    assert await proxy.turns(3) == [TEA, "Brew my tea.", SAID]
    answer = await client.chat("m", [{"role": "user", "content": "Which tea, as JSON?"}], format=SCHEMA)
    assert json.loads(answer.message.content or "") == {"tea": "Darjeeling"}
    assert proxy.sent()["format"] == SCHEMA
    assert await proxy.turns(4) == [TEA, "Brew my tea.", SAID, "Which tea, as JSON?"]
    await client._client.aclose()


async def test_the_client_of_openai(server: ScriptedOllama, tmp_path: Path) -> None:
    """Whole and streamed, with a key of ours for a user; tools and structured output; errors are its own."""
    async with proxied(server, tmp_path, {"eve": {"user_id": "eve"}}) as proxy:
        await proxy.memory.add(TEA, user_id="eve")
        async with openai.AsyncOpenAI(
            base_url=f"{proxy.url}/v1", api_key=proxy.secrets["eve"], max_retries=0
        ) as client:
            await _asked_as_openai(proxy, client)


async def _asked_as_openai(proxy: Proxied, client: openai.AsyncOpenAI) -> None:
    route = "POST /v1/chat/completions"
    chat: Any = client.chat.completions.create
    proxy.ollama.enqueue(route, raw_answer(completion({"content": SAID}), CHUNKED, piece=30))
    whole = await chat(model="m", messages=HI)
    assert whole.choices[0].message.content == SAID
    assert TEA in told(proxy, route)
    events = event_stream({"role": "assistant", "content": "You like "}, {"content": "Darjeeling."})
    proxy.ollama.enqueue(route, raw_answer(events, EVENTS, piece=25))
    pieces = [part.choices[0].delta.content async for part in await chat(model="m", messages=HI, stream=True)]
    assert "".join(filter(None, pieces)) == "You like Darjeeling."
    assert set(await proxy.turns(4, "eve")) == {TEA, ASK, SAID, "You like Darjeeling."}
    call = {"id": "1", "type": "function", "function": {"name": "brew", "arguments": '{"tea":"x"}'}}
    proxy.ollama.enqueue(
        route, raw_answer(completion({"content": None, "tool_calls": [call]}, "tool_calls"), CHUNKED, piece=50)
    )
    called = await chat(model="m", messages=HI, tools=[TOOL])
    assert called.choices[0].message.tool_calls[0].function.name == "brew"
    wanted = {"type": "json_schema", "json_schema": {"name": "tea", "schema": SCHEMA}}
    proxy.ollama.enqueue(route, raw_answer(completion({"content": '{"tea":"x"}'}), CHUNKED, piece=7))
    made = await chat(model="m", messages=[{"role": "user", "content": "As JSON?"}], response_format=wanted)
    assert made.choices[0].message.content == '{"tea":"x"}'
    assert proxy.sent(route)["response_format"] == wanted
    assert (await proxy.turns(5, "eve"))[-1] == "As JSON?"
    proxy.ollama.enqueue(route, Reply(404, json={"error": {"message": "model not found", "type": "api_error"}}))
    with pytest.raises(openai.NotFoundError, match="model not found"):
        await chat(model="x", messages=HI)
