"""What servers and proxies put on the wire, case by case, on asyncio and on trio.

Each number is one thing that a client of Ollama meets. Where the test of a case is another file's, it stands here:

     9  a line without end                  test_ndjson, test_endurance (a gigabyte of it)
    32  redirects                           test_redirects
    33  hosts                               test_hosts
    34  unix sockets                        test_hosts, test_connections, test_transport
    37  what is asked again, and when       test_retries; that refusals are all alike: here
    38  cancellation                        test_faults (at every suspension), test_endurance (at every stage)
    39  timeouts                            test_retries, test_client
    40  the pool, loops, threads, forks     test_connections, test_faults, test_endurance; secrets: test_trust
"""

from __future__ import annotations

import itertools
import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import pytest
from fakes import (
    LAST_CHUNK,
    STALL,
    Close,
    Pause,
    Raw,
    Reply,
    Reset,
    ScriptedOllama,
    Stream,
    chunk,
    head,
    line_chunk,
    ndjson,
    refusing_port,
    stream_head,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollama_async_mem import OllamaClient
from ollama_async_mem.errors import (
    AuthenticationFailed,
    ConnectFailed,
    ModelNotFound,
    OllamaAsyncMemError,
    OllamaError,
    ProtocolError,
    PullFailed,
    ServerBusy,
    StatusError,
    StreamFailed,
    StreamTruncated,
)
from ollama_async_mem.ollama import _streams

from .backends import BACKENDS, HI, ONCE, VERSION, on_both, pool_of, read, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fakes import Answer

    from ollama_async_mem import ChatChunk

DONE = {"message": {"role": "assistant", "content": ""}, "done": True}
COMPLETE = {"message": {"role": "assistant", "content": "so"}, "done": True}


def piece(text: Any, **more: Any) -> dict[str, Any]:
    """A chunk as the server sends it; more fields are those of the message."""
    return {"message": {"role": "assistant", "content": text, **more}, "done": False}


def raw(line: Any) -> bytes:
    """A line of JSON as other servers than Go's write it: nothing is escaped that need not be."""
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def slowly(*pieces: bytes) -> Raw:
    """An answer whose pieces are read one by one."""
    return Raw([stream_head(), *(step for data in pieces for step in (Pause(0.005), chunk(data))), LAST_CHUNK])


def cut(data: bytes, size: int) -> list[bytes]:
    """Data in pieces of a size."""
    return [data[i : i + size] for i in range(0, len(data), size)]


# --- streams ------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """What is on the wire, and what has to come of it: pieces of text, then maybe an error."""

    number: int
    name: str
    answer: Answer
    texts: list[str]
    error: type[OllamaError] | None = None
    says: str | None = None


ENDS = (StreamTruncated, "")
LAMA = raw(piece("naïve 🦙")) + raw(COMPLETE)
STREAMS = [
    Case(1, "characters torn between reads", slowly(*cut(LAMA, 3)), ["naïve 🦙", "so"]),
    Case(2, "several lines in a read", Raw([stream_head() + chunk(LAMA), LAST_CHUNK]), ["naïve 🦙", "so"]),
    Case(3, "a line over many reads", slowly(*cut(raw(piece("x" * 900_000)), 90_000), raw(DONE)), ["x" * 900_000, ""]),
    Case(4, "CRLF", ndjson(raw(piece("a"))[:-1] + b"\r\n", raw(DONE)[:-1] + b"\r\n"), ["a", ""]),
    Case(5, "blank lines", ndjson(b"\n\n", raw(piece("a")), b" \t\r\n", b"\n", raw(DONE), b"\n"), ["a", ""]),
    Case(6, "no newline at the end", ndjson(raw(piece("a")), raw(DONE)[:-1]), ["a", ""]),
    Case(7, "U+0085, U+2028, U+2029", ndjson(raw(piece("a\x85b\u2028c\u2029d")), DONE), ["a\x85b\u2028c\u2029d", ""]),
    Case(7, "escaped VT and FF", ndjson(piece("a\x0bb\x0cc\x1cd"), DONE), ["a\x0bb\x0cc\x1cd", ""]),
    Case(8, "byte order mark, torn", slowly(b"\xef", b"\xbb\xbf" + raw(piece("a")), raw(DONE)), ["a", ""]),
    Case(8, "byte order mark, whole", ndjson(b"\xef\xbb\xbf" + raw(piece("a")) + raw(DONE)), ["a", ""]),
    Case(10, "two objects in a line", ndjson(raw(piece("a"))[:-1] + raw(piece("b")), DONE), ["a", "b", ""]),
    Case(11, "an error in mid-stream", ndjson(piece("a"), {"error": "boom"}), ["a"], StreamFailed, "^boom$"),
    Case(
        11, "an error in the same read", Raw([stream_head() + chunk(raw(piece("a")) + b'{"error":"boom"}\n')]),
        ["a"], StreamFailed, "^boom$",
    ),
    Case(12, "an error object", ndjson(piece("a"), {"error": {"message": "boom"}}), ["a"], StreamFailed, "^boom$"),
    Case(12, "an error list", ndjson(piece("a"), {"error": ["boom"]}), ["a"], StreamFailed, "boom"),
    Case(12, "an error that is none", ndjson({**piece("a"), "error": None}, {**DONE, "error": ""}), ["a", ""]),
    Case(13, "refused: 400", Reply(400, json={"error": "no chat"}), [], StatusError, "^no chat .HTTP 400"),
    Case(13, "refused: 404", Reply(404, json={"error": "model 'm' not found"}), [], ModelNotFound, "^model 'm' not"),
    Case(13, "refused: 503", Reply(503, json={"error": "busy"}), [], ServerBusy, "^busy"),
    Case(14, "refused: HTML", Reply(502, body="<html>Bad Gateway</html>"), [], ServerBusy, "Bad Gateway"),
    Case(14, "refused: nothing", Reply(403, body=""), [], AuthenticationFailed, "status 403"),
    Case(14, "refused: text", Reply(404, body="404 page not found"), [], StatusError, "^404 page not found"),
    Case(15, "refused: a JSON string", Reply(500, json="text"), [], StatusError, "text"),
    Case(15, "refused: a JSON list", Reply(500, json=["a", 1]), [], StatusError, "500"),
    Case(15, "refused: null", Reply(500, body="null"), [], StatusError, "500"),
    Case(16, "a login page", Reply(body="<html>Log in</html>"), [], ProtocolError, "<html>Log in"),
    Case(16, "another server's JSON", Reply(json={"detail": "hi"}), [""], StreamTruncated),
    Case(17, "ends before it is done", ndjson(piece("a"), piece("b")), ["a", "b"], StreamTruncated, "before it was"),
    Case(17, "nothing at all", Reply(body=""), [], StreamTruncated),
    Case(
        18, "closed within a chunk", Raw([stream_head(), line_chunk(piece("a")), b"5\r\n{", Close()]),
        ["a"], StreamTruncated, "closed in the middle",
    ),
    Case(
        18, "closed before the last chunk", Raw([stream_head(), line_chunk(piece("a")), Close()]),
        ["a"], StreamTruncated, "closed in the middle",
    ),
    Case(
        18, "shorter than its length", Raw([head(headers={"Content-Length": "999"}), raw(piece("a")), Close()]),
        ["a"], StreamTruncated, "bytes before the end",
    ),
    Case(
        18, "reset", Raw([stream_head(), line_chunk(piece("a")), Pause(0.02), Reset()]),
        ["a"], StreamTruncated, "connection broke",
    ),
    Case(20, "the last chunk has text", ndjson(piece("a"), COMPLETE), ["a", "so"]),
    Case(21, "unknown fields", ndjson({**piece("a"), "new": {"x": [1]}}, {**DONE, "_debug": 1}), ["a", ""]),
    Case(22, "null for a message", ndjson({"message": None}, {**DONE, "model": None, "logprobs": None}), ["", ""]),
    Case(22, "null for lists", ndjson(piece("a", tool_calls=None, images=None), DONE), ["a", ""]),
    Case(26, "half a character", ndjson(b'{"message":{"content":"\\ud83d\\ud83d\\ude00"}}\n', DONE), ["\ufffd😀", ""]),
    Case(26, "escaped backslashes", ndjson(b'{"message":{"content":"\xff\\\\ud83d"}}\n', DONE), ["\ufffd\\ud83d", ""]),
    Case(26, "no UTF-8", ndjson(b'{"message":{"content":"a\xff\xe2\x82"}}\n', DONE), ["a\ufffd\ufffd", ""]),
    Case(
        27, "good lines before a bad one, in a read", Raw([stream_head() + chunk(raw(piece("a")) * 3 + b"<html>\n")]),
        ["a", "a", "a"], ProtocolError, "<html>",
    ),
    Case(29, "content is null", ndjson(piece(None, thinking="hm"), DONE), ["", ""]),
    Case(30, "a single JSON", Reply(json={"model": "m", **DONE, "done_reason": "load"}), [""]),
]  # fmt: skip


def numbered(case: Any) -> str:
    """The name of a test."""
    return f"case_{case.number:02}-{case.name.replace(' ', '_')}"


@pytest.mark.parametrize("case", STREAMS, ids=numbered)
@on_both
async def test_a_chat_stream(fake: ScriptedOllama, case: Case) -> None:
    """Every chunk that is there is given, then the error, which is not retried and keeps the text."""
    fake.enqueue("POST /api/chat", case.answer)
    texts: list[str] = []
    async with OllamaClient(fake.url, retry=ONCE) as client:
        if case.error is None:
            await collect(client, texts)
        else:
            with pytest.raises(case.error, match=case.says) as caught:
                await collect(client, texts)
            assert type(caught.value) is case.error
            assert caught.value.partial == "".join(texts)
        assert texts == case.texts
        assert pool_of(client).connections in {(0, 0), (0, 1)}
    await fake.wait_closed_connections()
    assert len(fake.requests) == 1


async def collect(client: OllamaClient, texts: list[str]) -> None:
    """Stream an answer to its end."""
    async with client.stream_chat("m", HI) as stream:
        async for got in stream:
            texts += [got.message.content]
    assert stream.response.message.content == "".join(texts)


async def chunks_of(fake: ScriptedOllama, *lines: Any) -> list[ChatChunk]:
    """The chunks that a client makes of these lines."""
    fake.enqueue("POST /api/chat", ndjson(*lines))
    async with OllamaClient(fake.url) as client, client.stream_chat("m", HI) as stream:
        return [got async for got in stream]


RESTS: dict[str, tuple[list[Any], tuple[int, int]]] = {
    "its end": ([Pause(0.02), LAST_CHUNK], (0, 1)),
    "blank lines": ([chunk(b"\n\n"), LAST_CHUNK], (0, 1)),
    "noise": ([chunk(b"<html>\n"), LAST_CHUNK], (0, 1)),
    "an error": ([line_chunk({"error": "boom"}), LAST_CHUNK], (0, 1)),
    "silence": ([STALL], (0, 0)),
    "a lot": ([chunk(b"x" * 100_000), Pause(0.01)] * 3, (0, 0)),
    "a broken chunk": ([b"zz\r\n"], (0, 0)),
    "a close": ([Close()], (0, 0)),
    "a reset": ([Pause(0.01), Reset()], (0, 0)),
}


@pytest.mark.parametrize("leaves", [False, True], ids=["read on", "left at done"])
@pytest.mark.parametrize("rest", RESTS)
@on_both
async def test_case_19_what_comes_behind_done(
    fake: ScriptedOllama,
    monkeypatch: pytest.MonkeyPatch,
    rest: str,
    leaves: bool,  # noqa: FBT001
) -> None:
    """The answer is complete; the connection is kept where its end comes soon, and else closed soon."""
    steps, left = RESTS[rest]
    if left == (0, 1):
        monkeypatch.setattr(_streams, "REST_S", 5)  # "soon" on a machine that is busy
    fake.enqueue("POST /api/chat", Raw([stream_head(), line_chunk(COMPLETE), *steps]))
    async with OllamaClient(fake.url) as client:
        with anyio.fail_after(2):
            async with client.stream_chat("m", HI) as stream:
                async for got in stream:
                    if got.done and leaves:
                        break
        assert stream.response.message.content == "so"
        assert pool_of(client).connections == left
        await until(lambda: fake.open_connections == left[1], 0.5)


@on_both
async def test_case_20_tool_calls_in_the_last_chunk(fake: ScriptedOllama) -> None:
    """They are given, as are those of a chunk before."""
    call = {"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}
    last = {**DONE, "message": {"content": "", "tool_calls": [call]}}
    one, two = await chunks_of(fake, piece("", tool_calls=[call]), last)
    assert one.message.tool_calls == two.message.tool_calls
    assert two.message.tool_calls[0].id == "call_1"


@pytest.mark.parametrize(
    ("written", "read_as"),
    [("1", 1), ("1.0", 1), ("1e9", 1_000_000_000), ("1.5", 1), ("null", 0), ("9007199254740993", 9007199254740993)],
)
@on_both
async def test_case_23_and_24_numbers(fake: ScriptedOllama, written: str, read_as: int) -> None:
    """Integers as floats are integers, fractions are cut off, nanoseconds stay exact, absent ones are 0."""
    line = '{"done":true,"eval_count":N,"total_duration":N,"prompt_eval_duration":N}\n'
    (got,) = await chunks_of(fake, line.replace("N", written).encode())
    assert [got.eval_count, got.total_duration, got.prompt_eval_duration, got.eval_duration] == [*[read_as] * 3, 0]


@pytest.mark.parametrize(
    "time",
    ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1+05:30", "0001-01-01T00:00:00Z", "2318-12-31T23:59:59.999999999Z"],
)
@on_both
async def test_case_25_times_stay_as_written(fake: ScriptedOllama, time: str) -> None:
    """Any number of digits, any offset, any year: nothing is rounded or refused."""
    fake.enqueue("GET /api/ps", Reply(json={"models": [{"name": "m", "expires_at": time}]}))
    fake.enqueue("GET /api/tags", Reply(json={"models": [{"name": "m", "modified_at": time}]}))
    (got,) = await chunks_of(fake, {**DONE, "created_at": time})
    async with OllamaClient(fake.url) as client:
        assert got.created_at == (await client.ps())[0].expires_at == (await client.tags())[0].modified_at == time


@pytest.mark.parametrize(
    ("arguments", "read_as"),
    [
        ({"a": None, "n_count": 1.5, "x": [None]}, {"a": None, "n_count": 1.5, "x": [None]}),
        ('{"a": null, "n_count": 1.5}', {"a": None, "n_count": 1.5}),
        ("", {}),
        (None, {}),
    ],
)
@on_both
async def test_case_28_tool_arguments(fake: ScriptedOllama, arguments: Any, read_as: Any) -> None:
    """An object, a text of JSON as OpenAI has it, or nothing; what the model said in it stays as it is."""
    calls = [{"function": {"name": "f", "arguments": arguments}}]
    got, _ = await chunks_of(fake, piece(None, tool_calls=calls), DONE)
    assert got.message.tool_calls[0].function.arguments == read_as


@on_both
async def test_case_29_thinking_and_tools_without_content(fake: ScriptedOllama) -> None:
    """Chunks without text carry what they carry."""
    thinking = {"message": {"role": "assistant", "thinking": "hm"}}
    tool = {"message": {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}}
    chunks = await chunks_of(fake, thinking, tool, DONE)
    assert [got.message.thinking for got in chunks] == ["hm", "", ""]
    assert [len(got.message.tool_calls) for got in chunks] == [0, 1, 0]


@on_both
async def test_case_31_a_proxy_that_packs(fake: ScriptedOllama) -> None:
    """Packing is not asked for; what comes packed all the same is read as it comes, also line by line."""
    packer = zlib.compressobj(wbits=31)
    lines = [packer.compress(raw(line)) + packer.flush(zlib.Z_SYNC_FLUSH) for line in (piece("a"), piece("b"))]
    rest = packer.compress(raw(COMPLETE)) + packer.flush()
    gzip = stream_head(headers={"Content-Encoding": "gzip"})
    fake.enqueue("POST /api/chat", Raw([gzip, *(chunk(line) for line in lines), STALL]))
    fake.enqueue("POST /api/chat", Raw([gzip, *(chunk(data) for data in cut(b"".join(lines) + rest, 7)), LAST_CHUNK]))
    async with OllamaClient(fake.url) as client:
        async with client.stream_chat("m", HI) as stream:
            assert [(await anext(stream)).message.content for _ in lines] == ["a", "b"]
        assert await read(client) == "abso"
        assert pool_of(client).connections == (0, 1)
    assert {request.headers["accept-encoding"] for request in fake.requests} == {"identity"}


@on_both
async def test_case_35_proxies_of_the_environment(fake: ScriptedOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are used for other machines, and never for our own."""
    with ScriptedOllama() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        proxy.enqueue("GET http://host.test/api/version", Reply(json={"version": "of the proxy"}), repeat=True)
        async with OllamaClient(fake.url) as near, OllamaClient("http://host.test") as far:
            assert await near.version() == fake.settings.version
            assert await far.version() == "of the proxy"
        assert [request.target for request in proxy.requests] == ["http://host.test/api/version"]


@on_both
async def test_case_36_a_kept_connection_that_the_server_closed(fake: ScriptedOllama) -> None:
    """A chat on it is sent again at once over a new one, without a retry: nothing of an answer had come."""
    seen: set[int] = set()

    def once_each(request: Any) -> Any:
        is_new = request.connection not in seen
        seen.add(request.connection)
        return ndjson(COMPLETE) if is_new else Raw([Close()])

    fake.enqueue("POST /api/chat", once_each, repeat=True)
    async with OllamaClient(fake.url, retry=ONCE) as client:
        assert [await read(client) for _ in range(3)] == ["so"] * 3
    assert fake.connections_total == 3


@on_both
async def test_case_37_a_refused_connection(fake: ScriptedOllama) -> None:
    """The same error for whole answers, streams and downloads, with what the system said as its cause."""
    calls: list[Callable[[OllamaClient], Any]] = [text, read, OllamaClient.tags, lambda client: client.pull("m")]
    with refusing_port() as port:
        async with OllamaClient(f"http://127.0.0.1:{port}", retry=ONCE, find_host=False) as client:
            for call in calls:
                with pytest.raises(ConnectFailed, match="Connection refused") as caught:
                    await call(client)
                assert isinstance(caught.value.__cause__, OSError)


@on_both
async def test_messages_are_sent_as_they_are_given(fake: ScriptedOllama) -> None:
    """With keys that this client does not know, and those of an answer, which may be sent back."""
    call = {"id": "call_1", "function": {"name": "f", "arguments": {"x": 1}}}
    fake.enqueue("POST /api/chat", ndjson(piece("", tool_calls=[call]), DONE))
    async with OllamaClient(fake.url) as client:
        async with client.stream_chat("m", HI) as stream:
            async for _ in stream:
                pass
        result = {"role": "tool", "content": "1", "tool_name": "f", "tool_call_id": "call_1", "new": [1]}
        await client.chat("m", [*HI, stream.response.message, result])
    sent = fake.requests[-1].json["messages"]
    assert sent[1]["tool_calls"][0]["id"] == "call_1"
    assert sent[2] == result


# --- whole answers and downloads ----------------------------------------------------------------------------------


class Whole(NamedTuple):
    """An answer in one piece: what asks for it, what is sent, and what has to come of it."""

    number: int
    name: str
    ask: Callable[[OllamaClient], Any]
    answer: Reply
    result: Any = None
    error: type[OllamaError] | None = None
    says: str | None = None


async def names(client: OllamaClient) -> list[tuple[str, int]]:
    """The installed models and their sizes."""
    return [(model.name, model.size) for model in await client.tags()]


async def vectors(client: OllamaClient) -> list[list[float]]:
    """Two embeddings."""
    return [list(vector) for vector in (await client.embed("m", ["a", "b"])).embeddings]


async def text(client: OllamaClient) -> str:
    """An answer without streaming."""
    return (await client.chat("m", HI)).message.content


def tags(*models: Any) -> Reply:
    """A list of models."""
    return Reply(json={"models": [*models]})


PAIR = [[0.5, 1], [1, 0]]
TOO_DEEP = '{"models":[],"error":' + "[" * 20_000 + "]" * 20_000 + "}"
WHOLES = [
    Whole(8, "byte order mark", text, Reply(body="\ufeff" + json.dumps(COMPLETE)), "so"),
    Whole(12, "an error in place of models", names, Reply(json={"error": "boom"}), None, ProtocolError, "boom"),
    Whole(12, "an error in place of a chat", text, Reply(json={"error": {"message": "b"}}), None, ProtocolError, "b$"),
    Whole(12, "an error that is none", text, Reply(json={"error": None, **COMPLETE}), "so"),
    Whole(13, "refused", names, Reply(500, json={"error": "no"}), None, StatusError, "^no .HTTP 500"),
    Whole(13, "refused with null", names, Reply(500, json={"error": None}), None, StatusError, "status 500"),
    Whole(13, "refused as by OpenAI", names, Reply(400, json={"error": {"message": "n"}}), None, StatusError, "^n "),
    Whole(14, "refused: no UTF-8", names, Reply(500, body=b"\xff\xfe"), None, StatusError, "500"),
    Whole(14, "refused: a long page", names, Reply(500, body="<p>x</p>" * 50_000), None, StatusError, "500"),
    Whole(15, "refused: nested deeply", names, Reply(500, body=TOO_DEEP), None, StatusError, "500"),
    Whole(16, "a login page", names, Reply(body="<html>Log in</html>"), None, ProtocolError, "Log in"),
    Whole(16, "another server's list", names, Reply(json={"detail": "hi"}), None, ProtocolError, "models"),
    Whole(16, "another server's version", OllamaClient.version, Reply(json={}), None, ProtocolError, "version"),
    Whole(16, "nothing", names, Reply(body=""), None, ProtocolError),
    Whole(16, "nested deeply", names, Reply(body=TOO_DEEP), None, ProtocolError, "recursion"),
    Whole(21, "unknown fields", names, tags({"name": "m", "size": 1, "new": {}}), [("m", 1)]),
    Whole(22, "null for models", names, Reply(json={"models": None}), []),
    Whole(22, "null in a model", names, tags({"name": "m", "size": None, "details": {"families": None}}), [("m", 0)]),
    Whole(22, "null for embeddings", vectors, Reply(json={"embeddings": None}), None, OllamaError, "asked for 2"),
    Whole(22, "null for a vector", vectors, Reply(json={"embeddings": [[1], None]}), None, ProtocolError, "null"),
    Whole(22, "null in a vector", vectors, Reply(json={"embeddings": [[1, None], [1]]}), None, ProtocolError, "null"),
    Whole(22, "NaN in a vector", vectors, Reply(body='{"embeddings":[[NaN],[1]]}'), None, ProtocolError),
    Whole(23, "floats for integers", names, tags({"name": "m", "size": 5.5, "details": {"x_length": 2.0}}), [("m", 5)]),
    Whole(23, "integers for floats", vectors, Reply(json={"embeddings": PAIR, "prompt_eval_count": 2.0}), PAIR),
    Whole(26, "half a character", text, Reply(body='{"message":{"content":"a\\udc00"},"done":true}'), "a\ufffd"),
    Whole(29, "content is null", text, Reply(json={"message": {"content": None}, "done": True}), ""),
    Whole(31, "packed", text, Reply(body=zlib.compress(raw(COMPLETE)), headers={"Content-Encoding": "deflate"}), "so"),
    Whole(31, "packed strangely", names, Reply(headers={"Content-Encoding": "br"}), None, ProtocolError, "br"),
]  # fmt: skip


@pytest.mark.parametrize("case", WHOLES, ids=numbered)
@on_both
async def test_a_whole_answer(fake: ScriptedOllama, case: Whole) -> None:
    """What stands in it is read, or refused with a typed error; never an empty result in place of a failure."""
    for route in ("POST /api/chat", "GET /api/tags", "POST /api/embed", "GET /api/version"):
        fake.enqueue(route, case.answer)
    async with OllamaClient(fake.url, retry=ONCE) as client:
        if case.error is None:
            assert await case.ask(client) == case.result
        else:
            with pytest.raises(case.error, match=case.says) as caught:
                await case.ask(client)
            assert type(caught.value) is case.error
    assert len(fake.requests) == 1


SUCCESS = {"status": "success"}
PULLS: list[tuple[int, str, Stream | Raw, list[int], str | None]] = [
    (5, "blank lines", ndjson(b"\n", {"status": "a", "completed": 1}, b"\n", SUCCESS), [1, 0], None),
    (11, "an error in mid-stream", ndjson({"status": "a"}, {"error": "no such file"}), [0], "no such file"),
    (12, "an error object", ndjson({"error": {"message": "boom"}}), [], "boom"),
    (12, "an error that is none", ndjson({"status": "a", "error": ""}, {**SUCCESS, "error": None}), [0, 0], None),
    (17, "ends before it is done", ndjson({"status": "verifying"}), [0], "stopped after 'verifying'"),
    (22, "nulls", ndjson({"status": "a", "digest": None, "completed": None}, SUCCESS), [0, 0], None),
    (23, "fractions", ndjson({"status": "a", "total": 10.5, "completed": 1.5}, SUCCESS), [1, 0], None),
]  # fmt: skip


@pytest.mark.parametrize("case", PULLS, ids=lambda case: f"case_{case[0]:02}-{case[1].replace(' ', '_')}")
@on_both
async def test_a_pull(fake: ScriptedOllama, case: tuple[int, str, Stream, list[int], str | None]) -> None:
    """The progress that comes is given, then the failure."""
    _, _, answer, completed, failure = case
    fake.enqueue("POST /api/pull", answer)
    seen: list[int] = []
    note = seen.append

    async def pull() -> None:
        async with client.stream_pull("m") as progress:
            async for line in progress:
                note(line.completed)

    async with OllamaClient(fake.url, retry=ONCE) as client:
        if failure is None:
            await pull()
        else:
            with pytest.raises(PullFailed, match=failure):
                await pull()
    assert seen == completed


@on_both
async def test_case_18_a_pull_that_breaks_off(fake: ScriptedOllama) -> None:
    """A typed error, with its cause."""
    fake.enqueue("POST /api/pull", Raw([stream_head(), line_chunk({"status": "a"}), Pause(0.02), Reset()]))
    async with OllamaClient(fake.url, retry=ONCE) as client:
        with pytest.raises(OllamaError, match="broke") as caught:
            await client.pull("m")
    assert caught.value.__cause__ is not None


# --- whatever the bytes are ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[ScriptedOllama]:
    """One server for all examples of a property."""
    with ScriptedOllama() as scripted:
        yield scripted


def torn(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Data cut at these places; no piece is empty."""
    places = sorted({0, len(data), *(where % (len(data) + 1) for where in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


on_sockets = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
cuts = st.lists(st.integers(0, 1 << 20), max_size=8)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n\t\n"])


@pytest.mark.parametrize("backend", BACKENDS)
@on_sockets
@given(texts=st.lists(st.text(), max_size=8), end=LINE_ENDS, where=st.tuples(cuts, cuts))
def test_any_split_of_a_body_gives_the_same_chunks(
    shared: ScriptedOllama, backend: str, texts: list[str], end: bytes, where: tuple[list[int], list[int]]
) -> None:
    """Wherever HTTP's chunks end, and wherever the network cuts those."""
    body = end.join(raw(piece(text))[:-1] for text in texts) + end + raw(DONE)
    framed = stream_head() + b"".join(chunk(data) for data in torn(body, where[0])) + LAST_CHUNK
    shared.enqueue("POST /api/chat", Raw(torn(framed, where[1])))
    got: list[str] = []

    async def ask() -> None:
        async with OllamaClient(shared.url, retry=ONCE) as client:
            await collect(client, got)
            assert pool_of(client).connections == (0, 1)

    anyio.run(ask, backend=backend)
    assert got == [*texts, ""]


WORDS = [
    b"HTTP/1.1 200 OK\r\n", b"\r\n", b"\n", b"\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 9\r\n",
    b"5\r\n", b"0\r\n\r\n", b"{}", b'{"error":', b'{"message":{"content":"x"}}\n', b'{"models":', b"[[1]]", b"\xff",
    b"Content-Encoding: gzip\r\n", b"\x1f\x8b\x08\x00", b": ",
]  # fmt: skip
OPENINGS = st.sampled_from([b"", b"HTTP/1.1 ", head(), stream_head(), head(headers={"Content-Length": "30"})])
noise = st.tuples(OPENINGS, st.lists(st.sampled_from(WORDS) | st.binary(max_size=8), max_size=10))
ASKED: dict[str, Callable[[OllamaClient], Any]] = {
    "POST /api/chat": read,
    "GET /api/tags": OllamaClient.tags,
    "POST /api/embed": vectors,
    "POST /api/pull": lambda client: client.pull("m"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@on_sockets
@given(route=st.sampled_from(sorted(ASKED)), words=noise, end=st.sampled_from([Close(), Reset()]))
def test_random_bytes_are_a_typed_error(
    shared: ScriptedOllama, backend: str, route: str, words: tuple[bytes, list[bytes]], end: Close | Reset
) -> None:
    """Never a hang, never an exception of another library."""
    shared.enqueue(route, Raw([b"".join((words[0], *words[1])), end]))

    async def ask() -> None:
        async with OllamaClient(shared.url, retry=ONCE) as client:
            with anyio.fail_after(5):
                try:
                    await ASKED[route](client)
                except OllamaAsyncMemError as exc:
                    assert str(exc)
                else:
                    assert route != "POST /api/embed"  # two vectors cannot come of it
            assert pool_of(client).connections[0] == 0

    anyio.run(ask, backend=backend)


@pytest.mark.parametrize("steps", [[Close()], [Reset()], [b"HTTP/1.1 200 OK\r\nConte", Pause(0.02), Close()]])
@on_both
async def test_causes_are_kept(fake: ScriptedOllama, steps: list[Any]) -> None:
    """An error of ours says what to do, that of the library below stays with it."""
    fake.enqueue("GET /api/version", Raw(steps))
    async with OllamaClient(fake.url, retry=ONCE) as client:
        with pytest.raises(OllamaError) as caught:
            await client.version()
    assert isinstance(caught.value, ConnectFailed | StreamTruncated)
    assert caught.value.__cause__ is not None
    assert VERSION.decode() not in str(caught.value)


@pytest.mark.parametrize("path", ["chat", "generate"])
async def test_an_answer_that_the_server_broke_off_is_no_success(server: ScriptedOllama, path: str) -> None:
    """More than thirty equal tokens end an answer: in one piece it comes as 200 with `done` false."""
    body = {"message": {"content": "no no no"}, "response": "no no no", "done": False}
    server.enqueue(f"POST /api/{path}", Reply(json=body))
    async with OllamaClient(server.url) as client:
        with pytest.raises(StreamTruncated) as caught:
            await (client.chat("m", []) if path == "chat" else client.generate("m", "x"))
    assert caught.value.partial == "no no no"


async def test_silence_behind_a_success_is_not_waited_for(server: ScriptedOllama) -> None:
    """A pull is done when the server says so."""
    server.enqueue("POST /api/pull", Raw([stream_head(), line_chunk({"status": "success"}), STALL]))
    async with OllamaClient(server.url) as client:
        with anyio.fail_after(2):
            await client.pull("m")


async def test_a_page_is_named_by_its_type(server: ScriptedOllama) -> None:
    """A captive portal answers everything with 200."""
    page = Reply(body="<html>Please log in</html>", headers={"Content-Type": "text/html; charset=utf-8"})
    server.enqueue("GET /api/tags", page)
    async with OllamaClient(server.url) as client:
        with pytest.raises(ProtocolError, match=r"text/html; charset=utf-8.*Please log in"):
            await client.tags()


async def test_a_very_long_refusal_keeps_its_first_words(server: ScriptedOllama) -> None:
    """Its end is not read, and not needed."""
    server.enqueue("GET /api/tags", Reply(500, body="out of order " * 100_000))
    async with OllamaClient(server.url) as client:
        with pytest.raises(StatusError, match="out of order") as caught:
            await client.tags()
    assert len(str(caught.value)) < 1000
