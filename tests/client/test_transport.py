"""Our connections behind httpx's transport interface, on asyncio and on trio."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from fakes import STALL, Close, Pause, Raw, Reply, Reset, ScriptedOllama, chunk, head, ndjson, refusing_port
from fakes.ports import bound_socket

from ollama_async_mem.ollama._transport import OllamaTransport

from .backends import on_both, tls_server, trusting, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import trustme

STREAM = head(headers={"Transfer-Encoding": "chunked"})


def connections(transport: OllamaTransport) -> tuple[int, int]:
    """Busy and idle connections of the only origin."""
    (pool,) = transport._pools.values()
    return pool.connections


@on_both
async def test_requests_of_all_shapes(fake: ScriptedOllama) -> None:
    """Bodies as bytes, as JSON and as a stream; queries, headers and answers without a body."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one", b"", b"two"):
            yield piece

    fake.enqueue("POST /echo", lambda request: Reply(body=request.body, headers={"X-Got": request.target}), repeat=True)
    transport = OllamaTransport()
    async with httpx.AsyncClient(transport=transport, base_url=fake.url) as client:
        assert (await client.post("/echo", content=b"raw", params={"a": "b c"})).headers["x-got"] == "/echo?a=b+c"
        assert (await client.post("/echo", json={"a": 1})).json() == {"a": 1}
        assert (await client.post("/echo", content=pieces())).content == b"onetwo"
        counted = await client.post("/echo", content=pieces(), headers={"Content-Length": "6"})
        assert counted.content == b"onetwo"
        assert (await client.head("/api/version")).status_code == 200
        assert (await client.get("/nothing")).status_code == 404
        assert connections(transport) == (0, 1)
    assert fake.connections_total == 1


@on_both
async def test_a_stream_comes_as_it_is_sent_and_may_be_left(fake: ScriptedOllama) -> None:
    """Leaving closes the socket at once; a stream that was read to its end keeps it."""
    fake.enqueue("POST /api/chat", Raw([STREAM, chunk(b"first\n"), STALL]), ndjson({"a": 1}, {"b": 2}))
    transport = OllamaTransport()
    async with httpx.AsyncClient(transport=transport, base_url=fake.url) as client:
        left = await transport.handle_async_request(client.build_request("POST", "/api/chat", json={}))
        assert isinstance(left.stream, httpx.AsyncByteStream)
        assert await anext(aiter(left.stream)) == b"first\n"
        assert connections(transport) == (1, 0)
        await left.aclose()
        await until(lambda: fake.open_connections == 0)
        async with client.stream("POST", "/api/chat", json={}) as response:
            assert [line async for line in response.aiter_lines()] == ['{"a":1}', '{"b":2}']
        assert connections(transport) == (0, 1)


@on_both
async def test_answers_are_unpacked_by_httpx(fake: ScriptedOllama) -> None:
    """Header values beyond ASCII, duplicates, and content encodings reach httpx as they are."""
    import zlib  # noqa: PLC0415

    raw = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Name: caf\xe9\r\n"
    body = zlib.compress(b"plain")
    about = b"Content-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(body)
    fake.enqueue("GET /x", Raw([raw + about + body]))
    async with httpx.AsyncClient(transport=OllamaTransport(), base_url=fake.url) as client:
        response = await client.get("/x")
    assert response.text == "plain"
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers.raw[2][1] == b"caf\xe9"


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([Close()], httpx.ReadError),
        ([Reset()], httpx.ReadError),
        ([b"nonsense\r\n\r\n"], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\nCont", Pause(0.02), Close()], httpx.RemoteProtocolError),
        ([STREAM, b"zz\r\n"], httpx.RemoteProtocolError),
        ([STREAM, chunk(b"x"), Close()], httpx.RemoteProtocolError),
        ([STREAM, chunk(b"x"), Pause(0.02), Reset()], httpx.RemoteProtocolError),
        ([STALL], httpx.ReadTimeout),
        ([STREAM, chunk(b"x"), STALL], httpx.ReadTimeout),
    ],
)
@on_both
async def test_faults_are_errors_of_httpx(
    fake: ScriptedOllama, steps: list[bytes | Close], error: type[httpx.TransportError]
) -> None:
    """With the request, and with our error as the cause."""
    fake.enqueue("GET /x", Raw(steps))
    transport = OllamaTransport()
    async with httpx.AsyncClient(transport=transport, base_url=fake.url, timeout=0.2) as client:
        with pytest.raises(error) as caught:
            await client.get("/x")
        assert caught.value.request.url.path == "/x"
        assert type(caught.value) is error
        assert connections(transport) == (0, 0)


@on_both
async def test_the_four_timeouts(fake: ScriptedOllama) -> None:
    """Connect, read and pool; a write limit does not disturb a body that flows."""
    fake.enqueue("GET /x", Raw([STALL]))
    limits = httpx.Timeout(5, pool=0.05)
    async with httpx.AsyncClient(transport=OllamaTransport(max_connections=1), timeout=limits) as client:
        await client.post(f"{fake.url}/x", content=bytes(3_000_000))
        with anyio.move_on_after(0.3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.get, f"{fake.url}/x")
                await fake.wait_until(lambda: len(fake.requests) == 2)
                with pytest.raises(httpx.PoolTimeout):
                    await client.get(f"{fake.url}/x")
    with refusing_port() as port:
        async with httpx.AsyncClient(transport=OllamaTransport()) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{port}/")


@on_both
async def test_a_server_that_takes_nothing_is_a_write_timeout() -> None:
    """And one that finishes no handshake a connect timeout."""
    with bound_socket() as silent:
        silent.listen()
        port = silent.getsockname()[1]
        async with httpx.AsyncClient(transport=OllamaTransport(), timeout=httpx.Timeout(5, write=0.1)) as client:
            with pytest.raises(httpx.WriteTimeout):
                await client.post(f"http://127.0.0.1:{port}/", content=bytes(50_000_000))
        async with httpx.AsyncClient(transport=OllamaTransport(), timeout=httpx.Timeout(5, connect=0.1)) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get(f"https://127.0.0.1:{port}/")


@on_both
async def test_it_is_closed_for_good(fake: ScriptedOllama) -> None:
    """What is in flight fails, and so does what comes after."""
    fake.enqueue("GET /x", Raw([STALL]))
    transport = OllamaTransport()

    async def fails() -> None:
        with pytest.raises(httpx.ConnectError, match="closed"):
            await transport.handle_async_request(httpx.Request("GET", f"{fake.url}/x"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fails)
        await fake.wait_until(lambda: bool(fake.requests))
        await transport.aclose()
    await fails()
    await fake.wait_closed_connections()


@on_both
async def test_tls_and_unix_sockets(authority: trustme.CA, tmp_path: Path) -> None:
    """Both ways in, and what is not HTTP at all."""
    async with (
        tls_server(authority) as fake,
        httpx.AsyncClient(transport=OllamaTransport(verify=trusting(authority))) as client,
    ):
        assert (await client.get(f"{fake.url}/api/version")).is_success
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("ftp://x/")
    async with tls_server(authority) as fake, httpx.AsyncClient(transport=OllamaTransport()) as client:
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await client.get(f"{fake.url}/api/version")
    path = tmp_path / "s"
    async with (
        ScriptedOllama(unix_path=path),
        httpx.AsyncClient(transport=OllamaTransport(uds=str(path))) as client,
    ):
        assert (await client.get("http://localhost/api/version")).is_success


@pytest.mark.parametrize("second", ["asyncio", "trio"])
def test_it_is_used_from_a_second_event_loop(fake: ScriptedOllama, second: str) -> None:
    """Each has its own connections."""
    transport = OllamaTransport()

    async def ask(*, last: bool) -> None:
        response = await transport.handle_async_request(httpx.Request("GET", f"{fake.url}/api/version"))
        assert await response.aread()
        if last:
            await transport.aclose()

    anyio.run(functools.partial(ask, last=False))
    anyio.run(functools.partial(ask, last=True), backend=second)
    anyio.run(fake.wait_closed_connections)
