"""The scripted Ollama does to a plain client what the test said it should do."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import numpy as np
import pytest
from fakes import (
    LAST_CHUNK,
    STALL,
    Close,
    Hold,
    Pause,
    Raw,
    Reply,
    Reset,
    ScriptedOllama,
    Settings,
    chunk,
    line_chunk,
    ndjson,
    refusing_port,
    stream_head,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = "POST /api/chat"
HELLO = {"model": "llama3.2", "messages": [{"role": "user", "content": "good <day>"}]}


@pytest.fixture
def server() -> Iterator[ScriptedOllama]:
    """A running server."""
    with ScriptedOllama() as running:
        yield running


def raw_post(server: ScriptedOllama, path: str = "/api/chat", body: object = HELLO) -> socket.socket:
    """A socket on which a request has just been sent."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    data = json.dumps(body).encode()
    sock.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
    return sock


def read_until(sock: socket.socket, marker: bytes) -> bytes:
    """What arrives up to and including a marker."""
    data = b""
    while marker not in data:
        part = sock.recv(65536)
        assert part, data
        data += part
    return data


async def lines_of(response: httpx.Response) -> list[Any]:
    """An NDJSON answer's objects."""
    return [json.loads(line) async for line in response.aiter_lines()]


async def test_answers_are_used_in_order_and_the_last_may_repeat(server: ScriptedOllama) -> None:
    """Queue first, then what repeats, then the defaults for other routes."""
    server.enqueue(CHAT, Reply(503, json={"error": "server busy"}, headers={"Retry-After": "1"}))
    server.enqueue(CHAT, ndjson({"done": True}), repeat=True)
    async with httpx.AsyncClient(base_url=server.url) as client:
        busy = await client.post("/api/chat", json=HELLO)
        again = [(await client.post("/api/chat", json=HELLO)).json() for _ in range(3)]
        alive = await client.get("/")
    assert (busy.status_code, busy.json(), busy.headers["retry-after"]) == (
        503,
        {"error": "server busy"},
        "1",
    )
    assert again == [{"done": True}] * 3
    assert alive.text == "Ollama is running"


async def test_another_answer_ends_a_repetition(server: ScriptedOllama) -> None:
    """A repeating answer serves until another stands behind it."""
    server.enqueue(CHAT, Reply(json=1), repeat=True)
    async with httpx.AsyncClient(base_url=server.url) as client:
        first = [(await client.post("/api/chat")).json() for _ in range(2)]
        server.enqueue(CHAT, Reply(json=2))
        then = [(await client.post("/api/chat")).json() for _ in range(2)]
    assert first == [1, 1]
    assert then == [1, 2]


async def test_history_keeps_requests(server: ScriptedOllama) -> None:
    """Method, path, headers, body and the connection they came on; uploads in chunks too."""

    async def upload() -> Any:
        yield b'{"a":'
        yield b"1}"

    async with httpx.AsyncClient(base_url=server.url, headers={"X-Probe": "p"}) as client:
        await client.post("/api/show?x=1", json={"model": "m"})
        await client.post("/api/blobs/sha256:0", content=upload())
    shown, uploaded = server.requests
    assert (shown.method, shown.path, shown.target, shown.json) == (
        "POST", "/api/show", "/api/show?x=1", {"model": "m"},
    )  # fmt: skip
    assert shown.headers["x-probe"] == "p"
    assert uploaded.body == b'{"a":1}'
    assert shown.connection == uploaded.connection == 1
    assert shown.completed
    assert server.requests_to("POST /api/show") == [shown]


def test_one_http_chunk_for_each_line_and_keep_alive(server: ScriptedOllama) -> None:
    """Go's framing, escapes of Go's encoder, and a second request on the same connection."""
    with raw_post(server) as sock:
        answer = read_until(sock, LAST_CHUNK)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/x-ndjson" in head
        sizes = [int(part, 16) for part in body.split(b"\r\n")[::2] if part]
        assert sizes[-1] == 0
        assert len(sizes) == 6  # "You", " said:", " good", " <day>", done, end
        assert b"\\u003cday\\u003e" in body
        sock.sendall(b"HEAD /api/version HTTP/1.1\r\n\r\n")
        assert read_until(sock, b"\r\n\r\n").endswith(b"\r\n\r\n")
    assert server.connections_total == 1


def test_torn_bytes_pauses_and_an_orderly_end(server: ScriptedOllama) -> None:
    """Raw bytes go out as they are, when they should, and FIN ends them."""
    server.enqueue(CHAT, Raw([b"HTTP/1.1 200 OK\r\n\r\nab", Pause(0.1), b"c", Close()]))
    begin = time.monotonic()
    with raw_post(server) as sock:
        assert read_until(sock, b"ab").endswith(b"ab")
        assert sock.recv(10) == b"c"
        assert time.monotonic() - begin >= 0.1
        assert sock.recv(10) == b""


def test_reset_in_mid_stream(server: ScriptedOllama) -> None:
    """RST arrives as an error, not as an end."""
    server.enqueue(CHAT, Raw([stream_head(), line_chunk({"n": 1}), Pause(0.05), Reset()]))
    with raw_post(server) as sock:
        read_until(sock, b'{"n":1}\n\r\n')
        with pytest.raises(ConnectionResetError):
            sock.recv(10)


def test_close_without_a_byte(server: ScriptedOllama) -> None:
    """A server that drops a connection it had kept alive."""
    server.enqueue(CHAT, Raw([Close()]))
    with raw_post(server) as sock:
        assert sock.recv(10) == b""


async def test_hold_keeps_an_answer_until_it_is_released(server: ScriptedOllama) -> None:
    """A test decides when the second half goes out."""
    hold = Hold()
    server.enqueue(CHAT, Raw([stream_head(), line_chunk({"n": 1}), hold, line_chunk({"n": 2}), LAST_CHUNK]))
    async with (
        httpx.AsyncClient(base_url=server.url) as client,
        client.stream("POST", "/api/chat") as response,
    ):
        lines = response.aiter_lines()
        assert json.loads(await anext(lines)) == {"n": 1}
        assert not server.requests[0].completed
        hold.release()
        assert json.loads(await anext(lines)) == {"n": 2}
        assert [line async for line in lines] == []


async def test_a_client_that_leaves_a_stalled_answer_is_noticed(server: ScriptedOllama) -> None:
    """The connection counts as closed although the answer has not ended."""
    server.enqueue(CHAT, Raw([stream_head(), line_chunk({"n": 1}), STALL]))
    with raw_post(server) as sock:
        await anyio.to_thread.run_sync(read_until, sock, b'{"n":1}')
        assert server.open_connections == 1
        with pytest.raises(TimeoutError, match="1 connections still open"):
            await server.wait_closed_connections(0.02)
    await server.wait_closed_connections()
    assert not server.requests[0].completed


async def test_a_flood_is_bounded_by_the_reader(server: ScriptedOllama) -> None:
    """An endless answer waits for a slow reader and ends when it hangs up."""
    sent = itertools.count()
    server.enqueue(CHAT, Raw(lambda: (chunk(b"x" * 65536) for _ in sent)))
    with raw_post(server) as sock:
        await anyio.to_thread.run_sync(read_until, sock, b"xxx")
        await anyio.sleep(0.1)
        before = server.open_connections
    await server.wait_closed_connections()
    assert before == 1
    assert next(sent) < 2000


async def test_stop_refuses_and_start_serves_on_the_same_port(server: ScriptedOllama) -> None:
    """A restart as clients see it."""
    url = server.url
    async with httpx.AsyncClient(base_url=url) as client:
        await client.get("/")
        await server.stop()
        assert server.open_connections == 0
        with pytest.raises(httpx.ConnectError):
            await client.get("/")
        await server.start()
        assert (await client.get("/")).status_code == 200
        await server.drop_connections()
        assert (await client.get("/")).status_code == 200
    assert server.url == url
    assert server.connections_total == 3


def test_refusing_port_refuses() -> None:
    """Nobody listens there, and nobody else can take it."""
    with refusing_port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_what_is_not_http_gets_400(server: ScriptedOllama) -> None:
    """As Go answers it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"\x16\x03\x01\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")


async def test_embeddings_are_unit_vectors_and_shared_words_are_near(server: ScriptedOllama) -> None:
    """One vector for each text, string or list; equal in every process; float32 as Go writes it."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        texts = ["Alice eats peanuts", "peanuts for alice", "the tide tables of 1911"]
        many = (await client.post("/api/embed", json={"model": "e", "input": texts})).json()
        one = (await client.post("/api/embed", json={"model": "e", "input": texts[0], "dimensions": 8})).json()
        none = (await client.post("/api/embed", json={"model": "e", "input": ""})).json()
        wrong = await client.post("/api/embed", json={"model": "e", "input": ["a", 1]})
        packed = await client.post("/v1/embeddings", json={"input": texts, "encoding_format": "base64"})
    vectors = np.array(many["embeddings"], dtype=np.float32)
    assert vectors.shape == (3, 256)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert (len(one["embeddings"]), len(one["embeddings"][0]), none["embeddings"]) == (1, 8, [])
    assert (wrong.status_code, wrong.json()) == (400, {"error": "invalid input type"})
    unpacked = [np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in packed.json()["data"]]
    assert np.array_equal(np.array(unpacked), vectors)


async def test_embed_latency_is_configurable() -> None:
    """Requests wait side by side, not one behind the other."""
    body = {"model": "e", "input": "a"}
    async with (
        ScriptedOllama(Settings(embed_latency_s=0.1)) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        begin = time.monotonic()
        await asyncio.gather(*(client.post("/api/embed", json=body) for _ in range(5)))
        assert 0.1 <= time.monotonic() - begin < 0.45


async def test_models_missing_pulled_copied_and_deleted() -> None:
    """Ollama's 404 texts, and a pull after which the model is there."""
    async with (
        ScriptedOllama(Settings(models=[], only_listed=True)) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        asked = {path: await client.post(path, json={**HELLO, "model": "x"}) for path in
                 ("/api/chat", "/api/show", "/api/embed")}  # fmt: skip
        assert {r.status_code for r in asked.values()} == {404}
        assert asked["/api/chat"].json() == {"error": "model 'x' not found"}
        assert asked["/api/show"].json() == {"error": "model 'x:latest' not found"}
        assert asked["/api/embed"].json() == {"error": 'model "x" not found, try pulling it first'}
        statuses = [line["status"] for line in await lines_of(await client.post("/api/pull", json={"model": "x"}))]
        assert (statuses[0], statuses[-1]) == ("pulling manifest", "success")
        await client.post("/api/copy", json={"source": "x", "destination": "y:q4"})
        assert [m["name"] for m in (await client.get("/api/tags")).json()["models"]] == ["x:latest", "y:q4"]
        assert (await client.post("/api/chat", json={**HELLO, "model": "X"})).status_code == 200
        gone = [await client.request("DELETE", "/api/delete", json={"model": "x"}) for _ in range(2)]
        assert [r.status_code for r in gone] == [200, 404]


async def test_chat_and_generate_by_default(server: ScriptedOllama) -> None:
    """Streamed, whole, by a function of the test's own, and the answer to a load."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        streamed = await lines_of(await client.post("/api/chat", json=HELLO))
        whole = (await client.post("/api/generate", json={"model": "m", "prompt": "p", "stream": False})).json()
        load = (await client.post("/api/chat", json={"model": "m"})).json()
        unnamed = await client.post("/api/chat", json={"messages": []})
        server.settings.answer = lambda body: body["model"].upper()
        own = (await client.post("/api/generate", json={"model": "m", "prompt": "p", "stream": False})).json()
    assert "".join(line["message"]["content"] for line in streamed) == "You said: good <day>"
    assert [line["done"] for line in streamed] == [False] * 4 + [True]
    assert (whole["response"], whole["done_reason"], own["response"]) == ("You said: p", "stop", "M")
    assert load["done_reason"] == "load"
    assert (unnamed.status_code, unnamed.json()) == (400, {"error": "model is required"})


async def test_unknown_paths_and_missing_bodies_as_go_answers_them(server: ScriptedOllama) -> None:
    """Text for an unknown path, JSON for a missing body."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        unknown, empty = await client.get("/nowhere"), await client.post("/api/embed")
    assert (unknown.status_code, unknown.text) == (404, "404 page not found")
    assert (empty.status_code, empty.json()) == (400, {"error": "missing request body"})


async def test_an_answer_that_raises_fails_the_test() -> None:
    """A mistake in a test's own function comes out when the server is left."""

    def broken(_request: object) -> Reply:
        raise LookupError("no such answer")

    async def use() -> int:
        async with ScriptedOllama() as server, httpx.AsyncClient(base_url=server.url) as client:
            server.enqueue("GET /", broken)
            return (await client.get("/")).status_code

    with pytest.raises(LookupError, match="no such answer"):
        await use()


async def test_unix_socket(tmp_path: Path) -> None:
    """The same server on a unix socket."""
    path = tmp_path / "ollama.sock"
    async with (
        ScriptedOllama(unix_path=path) as server,
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://x") as client,
    ):
        assert (await client.get("/api/version")).json() == {"version": server.settings.version}
        assert server.url == f"unix://{path}"


def test_it_outlives_the_loops_of_its_clients(server: ScriptedOllama) -> None:
    """The server has a loop of its own, so a test may start and end several."""

    async def use() -> int:
        async with httpx.AsyncClient(base_url=server.url) as client:
            return (await client.get("/")).status_code

    assert [asyncio.run(use()) for _ in range(2)] == [200, 200]


def chatty(server: ScriptedOllama, text: str) -> None:
    """A script for the process below."""
    server.settings.answer = lambda _body: text


def test_a_process_of_its_own_takes_a_script_and_ends_with_its_parent() -> None:
    """It announces its URL, serves, and leaves when standard input ends."""
    here = Path(__file__).parent
    command = [sys.executable, "-m", "fakes", "--script", "test_fakes:chatty", "--argument", '"hi"']
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(here)}
    ) as process:
        assert process.stdin
        assert process.stdout
        url = json.loads(process.stdout.readline())["url"]
        answer = httpx.post(f"{url}/api/generate", json={"model": "m", "prompt": "p", "stream": False})
        process.stdin.close()
        assert process.wait(5) == 0
    assert answer.json()["response"] == "hi"
