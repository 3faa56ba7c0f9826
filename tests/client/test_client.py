"""The client against a scripted Ollama on a real socket."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import numpy as np
import pytest
import respx
from fakes import (
    STALL,
    Close,
    Coalesce,
    Pause,
    Raw,
    Reply,
    Reset,
    ScriptedOllama,
    Stream,
    error,
    head,
    line_chunk,
    ndjson,
    refusing_port,
    stream_head,
)

from ollama_async_mem import ChatMessage, OllamaClient, RetryPolicy, Timeouts, run_tools
from ollama_async_mem.errors import (
    ConfigError,
    ConnectFailed,
    FirstByteTimeout,
    ModelNotFound,
    ModelOutputError,
    OllamaError,
    ProtocolError,
    PullFailed,
    StallTimeout,
    StatusError,
    StreamFailed,
    StreamTruncated,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fakes.script import Step

HI = [{"role": "user", "content": "hello there"}]
ONCE = RetryPolicy(attempts=1)


def chunk(text: str, **more: Any) -> dict[str, Any]:
    """A chunk as the server sends it."""
    return {"model": "m", "message": {"role": "assistant", "content": text}, "done": False, **more}


async def read(client: OllamaClient, texts: list[str] | None = None) -> None:
    """Stream an answer to its end."""
    async with client.stream_chat("m", HI) as stream:
        async for got in stream:
            if texts is not None:
                texts.append(got.message.content)


async def test_chat_answers_with_metrics(server: ScriptedOllama) -> None:
    """A whole answer has the text, the metrics and the speed."""
    async with OllamaClient(server.url) as client:
        reply = await client.chat("llama3.2", HI)
    assert reply.message.content == "You said: hello there"
    assert reply.done
    assert reply.eval_count > 0
    assert reply.tokens_per_second == pytest.approx(50)


async def test_a_stream_gives_chunks_and_then_the_whole_response(server: ScriptedOllama) -> None:
    """The chunks join to the response that stands after the loop."""
    async with OllamaClient(server.url) as client, client.stream_chat("llama3.2", HI) as stream:
        pieces = [piece async for piece in stream.text()]
    assert "".join(pieces) == stream.response.message.content == "You said: hello there"
    assert len(pieces) > 1
    assert stream.response.done_reason == "stop"


async def test_a_stream_collects_thinking_and_tool_calls(server: ScriptedOllama) -> None:
    """What comes beside the text is in the whole response too, also from the chunk that says done."""
    call = {"function": {"name": "f", "arguments": {"x": 1}}, "id": "call_1"}
    thinking = {"message": {"role": "assistant", "content": "", "thinking": "hm"}}
    last = {"message": {"content": "!", "tool_calls": [call]}, "done": True}
    server.enqueue("POST /api/chat", ndjson(thinking, thinking, last))
    async with OllamaClient(server.url) as client, client.stream_chat("m", HI) as stream:
        assert [c.done async for c in stream] == [False, False, True]
    message = stream.response.message
    assert (message.thinking, message.content, message.tool_calls[0].function.arguments) == ("hmhm", "!", {"x": 1})


async def test_leaving_a_stream_closes_its_socket(server: ScriptedOllama) -> None:
    """After `break` the connection is gone, so that the server stops generating."""
    server.enqueue("POST /api/chat", Stream([chunk(str(i)) for i in range(10_000)], interval_s=0.01))
    async with OllamaClient(server.url) as client:
        async with client.stream_chat("m", HI) as stream:
            async for _ in stream:
                break
        await server.wait_closed_connections(timeout_s=0.5)
        assert server.open_connections == 0
        assert stream.response.message.content == "0"


async def test_cancelling_a_stream_closes_its_socket(server: ScriptedOllama) -> None:
    """A task that is cancelled in the middle of a stream leaves no connection behind."""
    server.enqueue("POST /api/chat", Stream([chunk(str(i)) for i in range(10_000)], interval_s=0.01))
    async with OllamaClient(server.url) as client:
        task = asyncio.create_task(read(client))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_closed_connections(timeout_s=0.5)
        assert server.open_connections == 0


async def test_a_stream_is_opened_before_it_is_iterated(server: ScriptedOllama) -> None:
    """Iterating without `async with` says what is missing."""
    async with OllamaClient(server.url) as client:
        with pytest.raises(ConfigError, match="async with"):
            await anext(client.stream_chat("m", HI))
        stream = client.stream_chat("m", HI)
        async with stream:
            pass
        with pytest.raises(ConfigError, match="opened once"):
            async with stream:
                pass


async def test_an_error_in_mid_stream_keeps_the_partial_text(server: ScriptedOllama) -> None:
    """An error line after status 200 is raised after the chunks before it, and is not retried."""
    server.enqueue("POST /api/chat", ndjson(chunk("so "), chunk("far"), {"error": "model runner has stopped"}))
    seen: list[str] = []
    async with OllamaClient(server.url) as client:
        with pytest.raises(StreamFailed, match="runner has stopped") as caught:
            await read(client, seen)
    assert caught.value.partial == "so far"
    assert seen == ["so ", "far"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "ending",
    [[b"0\r\n\r\n"], [Close()], [b"5\r\n{"], [b"5\r\n{", Close()], [Reset()]],
    ids=["clean", "eof", "torn-open", "torn", "reset"],
)
async def test_a_stream_that_ends_before_done_is_an_error(server: ScriptedOllama, ending: list[Any]) -> None:
    """A clean end without `done`, a torn chunk and a reset are all a truncated stream with the partial text."""
    if ending == [b"5\r\n{"]:
        ending = [*ending, Pause(0.05), Close()]
    server.enqueue("POST /api/chat", Raw([stream_head(), line_chunk(chunk("half")), Pause(0.05), *ending]))
    async with OllamaClient(server.url) as client:
        with pytest.raises(StreamTruncated) as caught:
            await read(client)
    assert caught.value.partial == "half"


async def test_a_structured_answer_is_parsed(server: ScriptedOllama) -> None:
    """`format=` a Struct sends its schema and gives an instance, whole and streamed."""

    class Person(msgspec.Struct):
        name: str

    server.settings.answer = lambda _: '{"name": "Ann"}'
    async with OllamaClient(server.url) as client:
        reply = await client.chat("m", HI, format=Person)
        async with client.stream_chat("m", HI, format=Person) as stream:
            async for _ in stream:
                pass
    assert reply.parsed == stream.response.parsed == Person("Ann")
    assert server.requests[0].json["format"]["properties"] == {"name": {"type": "string"}}


async def test_a_misfit_structured_answer_is_an_error(server: ScriptedOllama) -> None:
    """An answer that is not of the shape is an error that holds it."""
    async with OllamaClient(server.url) as client:
        with pytest.raises(ModelOutputError) as caught:
            await client.chat("m", HI, format={"type": "object"})
    assert caught.value.output == "You said: hello there"


async def test_embeddings_are_float32_buffers(server: ScriptedOllama) -> None:
    """Vectors become numpy arrays without a copy, one for each text."""
    async with OllamaClient(server.url) as client:
        response = await client.embed("nomic-embed-text", ["a", "b", "a"])
    arrays = [np.asarray(v) for v in response.embeddings]
    assert [a.dtype for a in arrays] == [np.float32] * 3
    assert np.shares_memory(arrays[0], np.asarray(response.embeddings[0]))
    assert (arrays[0] == arrays[2]).all()
    assert not (arrays[0] == arrays[1]).all()


@pytest.mark.parametrize("count", [15, 16])
async def test_vectors_can_be_written_to(server: ScriptedOllama, count: int) -> None:
    """As to normalise them in place; on both ways."""
    async with OllamaClient(server.url) as client:
        response = await client.embed("nomic-embed-text", ["a"] * count)
    for vector in response.embeddings:
        assert (vector.format, vector.itemsize) == ("f", 4)
        np.asarray(vector)[:] = 2
        assert vector[0] == 2


async def test_a_missing_vector_is_an_error(server: ScriptedOllama) -> None:
    """As many vectors as texts, or an error: the server answers the empty text with none."""
    server.enqueue("POST /api/embed", Reply(json={"model": "m", "embeddings": []}))
    async with OllamaClient(server.url) as client:
        with pytest.raises(OllamaError, match="asked for 1 embeddings, the server sent 0"):
            await client.embed("m", "")


async def test_the_small_endpoints(server: ScriptedOllama) -> None:
    """Tags, show and version give typed records."""
    async with OllamaClient(server.url) as client:
        models = await client.tags()
        shown = await client.show("llama3.2")
        assert await client.version() == server.settings.version
    assert [m.name for m in models] == ["llama3.2:latest", "nomic-embed-text:latest"]
    assert (shown.embedding_length, shown.context_length) == (256, 131_072)


async def test_what_the_server_tells_of_a_model_is_read(server: ScriptedOllama) -> None:
    """Fields that only some models have."""
    remote = {"remote_model": "big", "remote_host": "https://ollama.com"}
    shown = {
        "renderer": "r", "parser": "p", "requires": "0.14.0", **remote,
        "messages": [{"role": "user", "content": "hi"}],
        "projector_info": {"clip.vision.size": 1.5},
        "tensors": [{"name": "output.weight", "type": "Q6_K", "shape": [2, 3]}],
    }  # fmt: skip
    server.enqueue("POST /api/show", Reply(json=shown))
    server.enqueue("GET /api/tags", Reply(json={"models": [{"name": "a", "model": "a:latest", **remote}]}))
    server.enqueue("GET /api/ps", Reply(json={"models": [{"name": "a", "model": "a:latest"}]}))
    async with OllamaClient(server.url) as client:
        assert shown.items() <= msgspec.to_builtins(await client.show("m", verbose=True)).items()
        [listed], [loaded] = await client.tags(), await client.ps()
    assert (listed.model, listed.remote_model, listed.remote_host) == ("a:latest", *remote.values())
    assert loaded.model == "a:latest"


@pytest.mark.parametrize("words", ['{"city": "Rome"', "Rome", '"Rome"', "[1]", "null"])
async def test_tool_arguments_that_are_no_object_are_told_to_the_model(server: ScriptedOllama, words: str) -> None:
    """The rest of the answer is of use all the same, and the model may try again."""

    def weather(city: str = "") -> str:
        """Tell the weather."""
        return f"sunny in {city}"

    call = {"function": {"name": "weather", "arguments": words}}
    server.enqueue("POST /api/chat", Reply(json={"message": {"content": "so", "tool_calls": [call]}, "done": True}))
    async with OllamaClient(server.url) as client:
        reply = await client.chat("m", HI, tools=[weather])
    assert reply.message.content == "so"
    assert reply.message.tool_calls[0].function.arguments == {"not a JSON object": words}
    assert "not a JSON object" in (await run_tools(reply, [weather]))[0]["content"]


async def test_a_pull_reports_progress_and_succeeds(server: ScriptedOllama) -> None:
    """The status lines come in order, and `ensure` pulls only what is missing."""
    async with OllamaClient(server.url) as client:
        async with client.stream_pull("new") as progress:
            lines = [line async for line in progress]
        seen: list[str] = []
        assert await client.models.ensure("newer", lambda line: seen.append(line.status))
        assert not await client.models.ensure("NEWER:latest")
    assert (lines[0].status, lines[-1].status) == ("pulling manifest", "success")
    assert max(line.completed for line in lines) == 1000
    assert seen[-1] == "success"


@pytest.mark.parametrize(
    "lines", [[{"status": "pulling manifest"}, {"error": "file does not exist"}], [{"status": "x"}]]
)
async def test_a_failed_pull_is_an_error(server: ScriptedOllama, lines: list[Any]) -> None:
    """An error line, and an end without success, are a failed pull that names the model."""
    server.enqueue("POST /api/pull", ndjson(*lines))
    async with OllamaClient(server.url) as client:
        with pytest.raises(PullFailed, match="pulling 'nope' failed"):
            await client.pull("nope")


async def test_a_missing_model_is_not_retried(server: ScriptedOllama) -> None:
    """404 is raised at once with the server's words, whole and streamed."""
    server.settings.only_listed = True
    async with OllamaClient(server.url) as client:
        with pytest.raises(ModelNotFound, match="model 'nope' not found"):
            await client.chat("nope", HI)
        with pytest.raises(ModelNotFound, match="try pulling it first"):
            await client.embed("nope", "x")
        with pytest.raises(ModelNotFound):
            async with client.stream_chat("nope", HI):
                pass
    assert len(server.requests) == 3


async def test_a_refused_connection_says_what_to_do() -> None:
    """The error names the URL and the ways out; the cause is kept."""
    with refusing_port() as port:
        url = f"http://127.0.0.1:{port}"
        async with OllamaClient(url, retry=ONCE) as client:
            with pytest.raises(ConnectFailed, match=r"ollama serve.*OLLAMA_HOST") as caught:
                await client.tags()
            assert not await client.is_alive()
    assert url in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


async def test_is_alive(server: ScriptedOllama) -> None:
    """A server that answers is alive; one that is not Ollama is not."""
    async with OllamaClient(server.url) as client:
        assert await client.is_alive()
        server.enqueue("GET /api/version", Reply(body="<html>hello</html>"))
        assert not await client.is_alive()


async def test_a_silent_server_is_a_typed_timeout(server: ScriptedOllama) -> None:
    """No first byte and no next byte are different errors, and neither is retried."""
    server.enqueue("GET /api/tags", Raw([STALL]))
    server.enqueue("POST /api/chat", Raw([stream_head(), line_chunk(chunk("a")), STALL]))
    limits = Timeouts(connect_s=0.1, first_byte_s=0.2, stall_s=0.2)
    async with OllamaClient(server.url, timeouts=limits) as client:
        with pytest.raises(FirstByteTimeout):
            await client.tags()
        with pytest.raises(StallTimeout):
            await read(client)
    assert len(server.requests) == 2


@pytest.mark.parametrize("body", ["<html>login</html>", "", "[1,2]", '"x"', '{"models": 5}'])
async def test_what_is_not_ollama_is_a_protocol_error(server: ScriptedOllama, body: str) -> None:
    """A page, nothing, and other JSON in place of an answer are typed errors."""
    server.enqueue("GET /api/tags", Reply(body=body))
    async with OllamaClient(server.url) as client:
        with pytest.raises(ProtocolError):
            await client.tags()


@pytest.mark.parametrize("raw", [b"garbage\r\n\r\n", b"HTTP/9.9 x\r\n\r\n", b"\x00" * 100])
async def test_what_is_not_http_is_a_typed_error(server: ScriptedOllama, raw: bytes) -> None:
    """Bytes that are not HTTP never surface as a foreign exception."""
    server.enqueue("GET /api/tags", Raw([raw, Close()]), repeat=True)
    async with OllamaClient(server.url, retry=ONCE) as client:
        with pytest.raises(OllamaError):
            await client.tags()


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.chat("", HI),
        lambda c: c.chat("m", "hello"),
        lambda c: c.chat("m", [3]),
        lambda c: c.chat("m", HI, format=7),
        lambda c: c.embed(" ", "x"),
    ],
)
async def test_bad_arguments_fail_before_any_request(server: ScriptedOllama, call: Callable[[Any], Any]) -> None:
    """A wrong argument is a ConfigError and costs no request."""
    async with OllamaClient(server.url) as client:
        with pytest.raises(ConfigError):
            await call(client)
    assert server.requests == []


async def test_request_fields_are_sent_as_given(server: ScriptedOllama) -> None:
    """Options, think and keep_alive reach the wire; what is not given does not."""
    async with OllamaClient(server.url, api_key="secret", headers={"x-team": "a"}) as client:
        await client.chat(
            "m",
            [ChatMessage(role="user", content="hi")],
            options={"seed": 1},
            think=False,
            keep_alive=timedelta(minutes=2),
        )
    request = server.requests[0]
    assert request.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "options": {"seed": 1},
        "think": False,
        "keep_alive": 120.0,
    }
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["x-team"] == "a"


async def test_the_key_stays_out_of_sight(server: ScriptedOllama) -> None:
    """Neither the key nor a password stands in the repr or in an error."""
    address = server.url.replace("http://", "http://me:pass@")
    server.enqueue("GET /api/tags", error(401, "unauthorized"))
    async with OllamaClient(address, api_key="secret") as client:
        with pytest.raises(StatusError) as caught:
            await client.tags()
        assert "pass" not in repr(client) + str(caught.value)
        assert "secret" not in repr(client) + str(caught.value)


@respx.mock
async def test_requests_are_shaped_for_any_httpx_transport() -> None:
    """Any httpx transport may take the place of ours: a mocked route sees method, path and type."""
    route = respx.post("http://host.test:1234/base/api/show").respond(json={"capabilities": ["completion"]})
    async with OllamaClient("http://host.test:1234/base/", transport=httpx.AsyncHTTPTransport()) as client:
        assert (await client.show("m")).capabilities == ["completion"]
    assert route.calls.last.request.headers["content-type"] == "application/json"


async def test_many_requests_share_few_connections(server: ScriptedOllama) -> None:
    """A hundred requests in a row use one connection."""
    async with OllamaClient(server.url) as client:
        for _ in range(100):
            await client.version()
    assert server.connections_total == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a program acknowledge at once")
async def test_an_answer_in_two_writes_is_not_waited_for(server: ScriptedOllama) -> None:
    """A server without TCP_NODELAY holds the body back until the head is acknowledged, which takes 40 ms by itself."""
    body = b'{"model":"m","embeddings":[[1.0]]}'
    opening = head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
    parts: list[Step] = [Coalesce(), opening, body]
    server.enqueue("POST /api/embed", Raw(parts), repeat=True)
    async with OllamaClient(server.url) as client:
        await client.embed("m", ["warm up"])
        begin = time.perf_counter()
        for _ in range(10):
            await client.embed("m", ["hello"])
    assert time.perf_counter() - begin < 0.2
