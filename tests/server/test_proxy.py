"""The proxy without its memory: all passes both ways as it would go directly, and ends when either side ends it."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute
from fakes import LAST_CHUNK, STALL, Close, Hold, Raw, Reply, Reset, chunk, error, head

from ollama_async_mem.server.proxy import proxy_app
from ollama_async_mem.server.serve import Parts, serving
from ollama_async_mem.server.settings import ServerSettings

from .proxying import NDJSON, Proxied, chat_lines, proxied, raw_answer
from .running import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import SocketStream
    from fakes import Answer, ScriptedOllama

LINES = chat_lines("Hel", "lo ", "wörld", " 🌊" * 500)
OFF = {"x-memory": "OFF"}
RNG = random.Random(20260102)  # noqa: S311 - no secrets
ANSWERS: dict[str, Answer] = {
    "chunks": raw_answer(LINES, piece=40),
    "one chunk": raw_answer(LINES, piece=len(LINES)),
    "single bytes": raw_answer(LINES[:200], piece=1),
    "many writes": Raw([head(200, NDJSON), *(bytes([b]) for b in chunk(LINES[:300])), LAST_CHUNK]),
    "length": raw_answer(LINES, {"Content-Type": "application/json; charset=utf-8"}),
    "empty": raw_answer(b""),
    "error": error(404, "model 'x' not found"),
    "odd status": error(499, "request canceled"),
    "text": Reply(404, body="404 page not found"),
    "until close": Raw([b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it", Close()]),
    "no content": Raw([head(204, {"X-Twice": "1"})]),
    "early hints": Raw([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", head(200, {"Content-Length": "2"}) + b"ok"]),
    "trailers": Raw([head(200, NDJSON), chunk(b"abc\n"), b"0\r\nX-Sum: 1\r\n\r\n"]),
    "garbage": raw_answer(RNG.randbytes(5000), piece=700),
    "large": raw_answer(b"x" * 3_000_000, piece=65_536),
}


@pytest.fixture
async def proxy(server: ScriptedOllama, tmp_path: Path) -> AsyncIterator[Proxied]:
    """A proxy without keys."""
    async with held(proxied(server, tmp_path)) as opened:
        yield opened


async def connected(proxy: Proxied) -> SocketStream:
    """A socket to the proxy."""
    return await anyio.connect_tcp("127.0.0.1", proxy.port)


async def rest_of(stream: SocketStream, limit_s: float = 5.0) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    with anyio.fail_after(limit_s):
        try:
            while True:
                received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return received


def comparable(response: httpx.Response) -> list[tuple[str, str]]:
    """The headers that are the server's and not of one connection."""
    own = {"date", "transfer-encoding", "connection", "content-length"}
    return [(name, value) for name, value in response.headers.multi_items() if name not in own]


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_the_same_as_without_the_proxy(proxy: Proxied, name: str) -> None:
    """Status, headers and every byte of the body, whatever its framing."""
    proxy.ollama.enqueue("POST /api/chat", ANSWERS[name], ANSWERS[name])
    direct = await proxy.http.post(f"{proxy.ollama.url}/api/chat", json={"model": "m"}, headers=OFF)
    through = await proxy.http.post(f"{proxy.url}/api/chat", json={"model": "m"}, headers=OFF)
    assert (through.status_code, through.content) == (direct.status_code, direct.content)
    assert comparable(through) == comparable(direct)
    if name in {"length", "error", "text"}:
        assert through.headers["content-length"] == direct.headers["content-length"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_any_method_and_path(proxy: Proxied, method: str) -> None:
    """They reach the server with their query and their escapes."""
    target = "/some/p%61th%20x?q=%C3%A4&r=1"
    answer = await proxy.http.request(method, proxy.url + target)
    direct = await proxy.http.request(method, proxy.ollama.url + target)
    assert (answer.status_code, answer.content) == (direct.status_code, direct.content)
    assert [(seen.method, seen.target) for seen in proxy.ollama.requests][-2:] == [(method, target)] * 2


async def test_headers_of_one_connection_stay_there(proxy: Proxied) -> None:
    """Others pass; the memory's own and our key do not."""
    await proxy.http.get(
        f"{proxy.url}/api/tags",
        headers=httpx.Headers(
            {
                "X-Memory": "off",
                "X-Memory-User": "alice",
                "Connection": "keep-alive, X-Gone",
                "X-Gone": "1",
                "TE": "trailers",
                "X-Kept": "ä",
                "Authorization": "Bearer oam_made_up",
            },
            encoding="utf-8",
        ),
    )
    await proxy.http.get(f"{proxy.url}/api/tags", headers={"Authorization": "Bearer theirs"})
    first, second = (request.headers for request in proxy.ollama.requests_to("GET /api/tags"))
    assert not {"x-memory", "x-memory-user", "x-gone", "te", "authorization", "content-length"} & set(first)
    assert first["x-kept"] == "ä".encode().decode("latin-1")
    assert first["host"] == f"127.0.0.1:{proxy.ollama.port}"
    assert second["authorization"] == "Bearer theirs"


@pytest.mark.parametrize("size", [0, 10, 100_000, 3_000_000])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_arrives_as_it_was(proxy: Proxied, size: int, *, is_chunked: bool) -> None:
    """With a length or in chunks."""
    body = RNG.randbytes(size)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 10_000):
            yield body[start : start + 10_000]

    path = "/api/blobs/sha256:x"
    await proxy.http.post(proxy.url + path, content=pieces() if is_chunked else body)
    assert proxy.ollama.requests_to(f"POST {path}")[0].body == body


async def test_an_upload_is_not_held_back(proxy: Proxied) -> None:
    """Its first piece is at the server before the second is sent; an early answer ends it."""
    seen = anyio.Event()
    refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"

    async def upstream(stream: SocketStream) -> None:
        async with stream:
            received = b""
            while b"first" not in received:
                received += await stream.receive()
            seen.set()
            await stream.send(refusal)
            await rest_of(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - of anyio
    app = proxy_app(proxy.memory, f"http://127.0.0.1:{port}")
    settings = ServerSettings(rest=False, mcp=False, proxy_port=0)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, upstream)
        async with serving(lambda _: Parts(proxy=app), settings, proxy.keys) as running:
            own = int(running.urls["proxy"].rpartition(":")[2])
            async with await anyio.connect_tcp("127.0.0.1", own) as client:
                await client.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nfirst")
                with anyio.fail_after(5):
                    await seen.wait()
                    answer = await client.receive()
                assert answer.startswith(b"HTTP/1.1 413")
        tasks.cancel_scope.cancel()


async def test_a_piece_passes_before_the_next_comes(proxy: Proxied) -> None:
    """The head and each chunk are there while the model still thinks about the next."""
    holds = [Hold(), Hold()]
    steps: list[bytes | Hold] = [head(200, NDJSON), holds[0], chunk(b"one\n"), holds[1], chunk(b"two\n"), LAST_CHUNK]
    proxy.ollama.enqueue("POST /api/chat", Raw(steps))
    with anyio.fail_after(5):
        async with proxy.http.stream("POST", f"{proxy.url}/api/chat", json={}, headers=OFF) as response:
            pieces = response.aiter_raw()
            holds[0].release()
            assert await anext(pieces) == b"one\n"
            holds[1].release()
            assert await anext(pieces) == b"two\n"
            assert [piece async for piece in pieces] == []


async def test_a_client_that_leaves_stops_the_model_at_once(proxy: Proxied) -> None:
    """Within 100 ms, in mid-stream as well as before the first byte."""
    answers = (Raw([head(200, NDJSON), chunk(b"one\n"), STALL]), Raw([STALL]))
    for answer in answers:
        await proxy.ollama.drop_connections()
        proxy.ollama.enqueue("GET /api/x", answer)
        asked = len(proxy.ollama.requests)
        stream = await connected(proxy)
        await stream.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await proxy.ollama.wait_until(lambda: len(proxy.ollama.requests) > asked)  # noqa: B023 - awaited here
        busy = proxy.ollama.open_connections
        await stream.aclose()
        await proxy.ollama.wait_until(lambda: proxy.ollama.open_connections < busy, 0.1)  # noqa: B023


async def test_a_client_that_leaves_with_a_request_in_the_queue_stops_the_model_too(proxy: Proxied) -> None:
    """The answer that ends is the one that is under way, not that of the request which came last."""
    proxy.ollama.enqueue("GET /api/x", Raw([head(200, NDJSON), chunk(b"one\n"), STALL]))
    asked = len(proxy.ollama.requests)
    stream = await connected(proxy)
    await stream.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
    await proxy.ollama.wait_until(lambda: len(proxy.ollama.requests) > asked)
    busy = proxy.ollama.open_connections
    await stream.aclose()
    await proxy.ollama.wait_until(lambda: proxy.ollama.open_connections < busy, 0.5)


async def test_a_client_that_leaves_within_its_upload(proxy: Proxied) -> None:
    """The half request is closed at the server, too, and the next one is served."""
    async with await connected(proxy) as stream:
        await stream.send(b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        await proxy.ollama.wait_until(lambda: proxy.ollama.open_connections > 0)
    await proxy.ollama.wait_closed_connections()
    assert (await proxy.http.get(f"{proxy.url}/api/version")).json() == {"version": "0.32.15"}


async def test_a_half_closed_client_counts_as_gone(proxy: Proxied) -> None:
    """As it does with Ollama: its answer is not computed any more."""
    proxy.ollama.enqueue("GET /api/x", Raw([head(200, NDJSON), chunk(b"one\n"), STALL]))
    async with await connected(proxy) as stream:
        await stream.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await proxy.ollama.wait_until(lambda: bool(proxy.ollama.requests))
        stream.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_WR)  # noqa: S610 - of anyio
        await rest_of(stream)
    await proxy.ollama.wait_closed_connections()


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
@pytest.mark.parametrize("framing", [NDJSON, {"Content-Length": "100"}], ids=["chunks", "length"])
async def test_an_answer_that_breaks_off_is_seen_to_break_off(
    proxy: Proxied, end: Close | Reset, framing: dict[str, str]
) -> None:
    """It has no clean end, so that nobody takes it for whole."""
    begun = chunk(b"one\n") if framing is NDJSON else b"one\n"
    proxy.ollama.enqueue("POST /api/chat", Raw([head(200, framing) + begun, end]))
    with pytest.raises(httpx.RemoteProtocolError):
        await proxy.http.post(f"{proxy.url}/api/chat", json={}, headers=OFF)


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-le"], ids=["garbage", "half"])
async def test_what_is_no_answer_is_told_as_ollama_tells_errors(proxy: Proxied, answer: bytes) -> None:
    """502 with a text under `error`, which clients show."""
    proxy.ollama.enqueue("GET /api/tags", Raw([answer, Close()]))
    response = await proxy.http.get(f"{proxy.url}/api/tags")
    assert response.status_code == 502
    assert isinstance(response.json()["error"], str)


async def test_a_server_that_is_away_and_comes_back(proxy: Proxied) -> None:
    """502 that says what to do, then answers again; kept connections that died meanwhile do no harm."""
    assert (await proxy.chat()).status_code == 200
    await proxy.ollama.stop()
    away = await proxy.chat()
    assert away.status_code == 502
    assert "ollama serve" in away.json()["error"]
    await proxy.ollama.start()
    assert (await proxy.chat()).status_code == 200


async def test_back_pressure_reaches_the_model(proxy: Proxied) -> None:
    """A client that does not read stops the server behind: what is on its way in between is bounded."""
    sent = 0

    def flood() -> object:
        nonlocal sent
        yield head(200, NDJSON)
        while True:
            sent += 1
            yield chunk(b"x" * 10_000)

    proxy.ollama.enqueue("GET /api/x", Raw(flood))  # type: ignore[arg-type]
    async with await connected(proxy) as stream:
        await stream.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with anyio.fail_after(10):
            before = -1
            while before != sent:
                before = sent
                await anyio.sleep(0.3)  # it has stopped when nothing more is sent for a while
        assert 10 < sent < 3000
        stopped_at, read = sent, 0
        while read < stopped_at * 10_000 + 1_000_000:  # and goes on when the client reads
            read += len(await stream.receive(1 << 20))


async def test_bytes_that_are_no_request(proxy: Proxied) -> None:
    """They are refused, and the proxy goes on."""
    for size in (1, 100, 5000):
        async with await connected(proxy) as stream:
            await stream.send(RNG.randbytes(size) + b"\r\n\r\n")
            assert b" 200 " not in await rest_of(stream, 12)
    assert (await proxy.http.get(proxy.url)).text == "Ollama is running"


DANGEROUS = [
    *(("POST", f"/api/{name}") for name in ("pull", "push", "create", "copy", "blobs/sha256:x", "me", "signout")),
    ("DELETE", "/api/delete"),
    ("POST", "/api/%64elete"),
    ("POST", "//api/pull"),
    ("GET", "/debug/pprof/heap"),
    ("POST", "/v1/../api/pull"),
    ("POST", "/u/alice/api/pull"),
    ("DELETE", "/v1/models/x"),
    ("PUT", "/api/chat"),
    ("POST", "/v1/%252e%252e/api/pull"),
]


async def test_what_belongs_to_all_needs_an_admin(server: ScriptedOllama, tmp_path: Path) -> None:
    """403 with a plain key, without a word to the server behind."""
    async with proxied(server, tmp_path, {"plain": {}, "admin": {"admin": True}}) as proxy:
        for method, path in DANGEROUS:
            url = httpx.URL(proxy.url).copy_with(raw_path=path.encode())
            refused = await proxy.http.request(method, url, headers=proxy.show("plain"))
            assert refused.status_code == 403, path
            assert "--admin" in refused.json()["error"]
            assert not server.requests, path
            await proxy.http.request(method, url, headers=proxy.show("admin"))
            assert len(server.requests) == 1, path
            server.requests.clear()


async def test_a_client_that_leaves_behind_its_upload(proxy: Proxied) -> None:
    """Once all pieces of a body went through, it is noticed as it is without one."""
    proxy.ollama.enqueue("POST /api/x", Raw([head(200, NDJSON), chunk(b"one\n"), STALL]))
    async with await connected(proxy) as stream:
        await stream.send(b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await proxy.ollama.wait_until(lambda: proxy.ollama.open_connections > 0)  # before the end of the body is sent
        await stream.send(b"0\r\n\r\n")
        assert b" 200 " in await stream.receive()
        assert proxy.ollama.requests[0].body == b"abc"
    await proxy.ollama.wait_closed_connections(0.5)
