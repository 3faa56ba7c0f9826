"""Connections, on asyncio and on trio: kept, replaced, closed, over TLS and unix sockets; uploads."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint
from fakes import (
    LAST_CHUNK,
    STALL,
    Close,
    Hold,
    Pause,
    Raw,
    Reply,
    Request,
    ScriptedOllama,
    head,
    line_chunk,
    stream_head,
)
from fakes import chunk as http_chunk

from ollama_async_mem import OllamaClient, Timeouts
from ollama_async_mem.errors import (
    ConfigError,
    ConnectFailed,
    OllamaError,
    StreamTruncated,
)
from ollama_async_mem.ollama._connection import Address, Limits
from ollama_async_mem.ollama._exchange import LinkOptions, Upload
from ollama_async_mem.ollama._links import NativeLink
from ollama_async_mem.ollama._pool import NoFreeConnection, Pool
from ollama_async_mem.ollama.hosts import Host

from .backends import HI, LINE, ONCE, VERSION, on_both, pool_of, read, tls_server, together, trusting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import trustme

# --- the pool -----------------------------------------------------------------------------------------------------


@on_both
async def test_who_waits_is_served_in_order(fake: ScriptedOllama) -> None:
    """First come, first served."""
    order: list[int] = []

    async def ask(number: int) -> None:
        await client.show(str(number))
        order.append(number)

    async with OllamaClient(fake.url, max_connections=1) as client:
        await client.version()
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(ask, number)
                await checkpoint()
                await checkpoint()
    assert order == list(range(30))
    assert [request.json["model"] for request in fake.requests[1:]] == [str(number) for number in order]
    assert fake.connections_total == 1


@on_both
async def test_waiting_for_a_connection_can_be_limited(fake: ScriptedOllama) -> None:
    """Its own error, and the queue is whole afterwards."""
    fake.enqueue("GET /a", Raw([STALL]))
    pool = Pool(Address(fake.url, "127.0.0.1", fake.port), max_connections=1)
    request = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
    with anyio.move_on_after(0.2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.exchange, "GET", request, b"", Limits())
            await fake.wait_until(lambda: bool(fake.requests))
            with pytest.raises(NoFreeConnection):
                await pool.exchange("GET", request, b"", Limits(wait_s=0.05))
    exchange = await pool.exchange("GET", request, b"", Limits(wait_s=1))
    await exchange.aclose()
    await pool.aclose()


WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "our own": dict,
    "httpx's authentication": lambda: {"auth": httpx.DigestAuth("me", "x")},
    "httpx's connections": lambda: {"transport": httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1))},
}


@pytest.mark.parametrize("way", WAYS)
@on_both
async def test_a_stream_that_holds_the_only_connection_is_told_from_a_slow_server(
    fake: ScriptedOllama, way: str
) -> None:
    """Who waits for its end as long as for a first byte hears that all connections are busy."""
    hold = Hold()
    done = line_chunk(b'{"done":true}')
    fake.enqueue("POST /api/chat", Raw([stream_head(), line_chunk(LINE), hold, done, LAST_CHUNK]))
    limits = Timeouts(first_byte_s=0.1)
    async with OllamaClient(fake.url, max_connections=1, timeouts=limits, **WAYS[way]()) as client:
        async with client.stream_chat("m", HI) as stream:
            await anext(stream)
            with anyio.fail_after(2), pytest.raises(NoFreeConnection, match=r"busy \(max_connections=\).* 0.1 s"):
                await client.version()
            assert len(fake.requests) == 1
            hold.release()
            assert [piece async for piece in stream.text()] == []
        assert await client.version()


@on_both
async def test_a_connection_is_kept_only_where_that_is_safe(fake: ScriptedOllama) -> None:
    """Not after `Connection: close`, HTTP/1.0, a body without end, or bytes behind the body."""
    ok = b"HTTP/1.1 200 OK\r\n"
    length = b"Content-Length: %d\r\n" % len(VERSION)
    kept = [
        ok + length + b"\r\n" + VERSION,
        ok + b"Transfer-Encoding: chunked\r\n\r\n" + http_chunk(VERSION) + b"0\r\n\r\n",
    ]
    spent = [
        ok + length + b"Connection: close\r\n\r\n" + VERSION,
        b"HTTP/1.0 200 OK\r\n" + length + b"\r\n" + VERSION,
        ok + length + b"\r\n" + VERSION + b"HTTP/1.1 200 OK\r\n",
        ok + b"Transfer-Encoding: chunked\r\n\r\n" + http_chunk(VERSION) + b"0\r\n\r\nx",
    ]
    async with OllamaClient(fake.url) as client:
        for raw, idle in [*((raw, 1) for raw in kept), *((raw, 0) for raw in spent)]:
            fake.enqueue("GET /api/version", Raw([raw]))
            assert await client.version() == "1"
            assert pool_of(client).connections == (0, idle)
        fake.enqueue("GET /api/version", Raw([ok + b"\r\n" + VERSION, Close()]))
        assert await client.version() == "1"
        assert pool_of(client).connections == (0, 0)


@on_both
async def test_bytes_out_of_turn_are_not_taken_for_an_answer(fake: ScriptedOllama) -> None:
    """What a server sends on an idle connection is never read as the next answer."""
    answer = head(headers={"Content-Length": str(len(VERSION))}) + VERSION
    fake.enqueue("GET /api/version", Raw([answer, Pause(0.02), answer.replace(b'"1"', b'"2"')]))
    async with OllamaClient(fake.url) as client:
        assert await client.version() == "1"
        await anyio.sleep(0.1)
        assert await client.version() == fake.settings.version
    assert fake.connections_total == 2


@on_both
async def test_idle_connections_expire(fake: ScriptedOllama) -> None:
    """Also those at the bottom, which are never used again."""
    pool = Pool(Address(fake.url, "127.0.0.1", fake.port), idle_s=0.1)

    async def ask() -> None:
        exchange = await pool.exchange("GET", b"GET /api/version HTTP/1.1\r\nhost: x\r\n\r\n", b"", Limits())
        while await exchange.receive():
            pass
        await exchange.aclose()

    await together(ask, ask, ask)
    assert pool.connections == (0, 3)
    await anyio.sleep(0.15)
    await ask()
    assert pool.connections == (0, 1)
    await pool.aclose()


def closing_the_second_request() -> Callable[[Request], Raw | Reply]:
    """Answers one request on each connection and closes at the next, unanswered."""
    seen: set[int] = set()

    def answer(request: Request) -> Raw | Reply:
        if request.connection in seen:
            return Raw([Close()])
        seen.add(request.connection)
        return Reply(json={"version": "1"})

    return answer


@on_both
async def test_a_reused_connection_that_closes_is_replaced_once(fake: ScriptedOllama) -> None:
    """The race that a client cannot avoid costs no retry and no waiting."""
    fake.enqueue("GET /api/version", closing_the_second_request(), repeat=True)
    async with OllamaClient(fake.url, retry=ONCE) as client:
        for _ in range(5):
            assert await client.version() == "1"
        assert pool_of(client).connections == (0, 1)
    assert len(fake.requests) == 9


@on_both
async def test_a_fresh_connection_that_closes_is_an_error(fake: ScriptedOllama) -> None:
    """It is not asked again behind the retry policy's back."""
    fake.enqueue("GET /api/version", Raw([Close()]), repeat=True)
    async with OllamaClient(fake.url, retry=ONCE) as client:
        with pytest.raises(ConnectFailed, match="without an answer"):
            await client.version()
    assert len(fake.requests) == 1


@on_both
async def test_an_answer_that_breaks_in_its_head_is_not_asked_for_again(fake: ScriptedOllama) -> None:
    """Once anything of an answer has come, the request was received."""
    fake.enqueue("GET /api/tags", Raw([b"HTTP/1.1 200 OK\r\nConte", Pause(0.02), Close()]), repeat=True)
    async with OllamaClient(fake.url) as client:
        await client.version()
        with pytest.raises(StreamTruncated, match="head"):
            await client.tags()
    assert len(fake.requests) == 2


# --- uploads ------------------------------------------------------------------------------------------------------


def link_to(fake: ScriptedOllama, **options: Any) -> NativeLink:
    """A link without a client above it."""
    given: dict[str, Any] = {
        "headers": {},
        "auth": None,
        "verify": True,
        "connect_s": 5,
        "max_connections": 1,
        "transport": None,
    }
    return NativeLink(Host(fake.url), LinkOptions(**{**given, **options}), None)


async def zeros(count: int, size: int = 65_536) -> AsyncIterator[bytes]:
    """Pieces of a body."""
    for _ in range(count):
        yield bytes(size)


@on_both
async def test_a_body_is_uploaded_in_pieces(fake: ScriptedOllama) -> None:
    """Longer than any buffer; the connection is kept."""
    fake.enqueue("POST /up", Reply(201))
    link = link_to(fake)
    answer = await link.open("POST", "/up", Upload(zeros(100), 6_553_600))
    assert answer.status == 201
    await answer.aclose()
    assert link._pool.connections == (0, 1)
    assert len(fake.requests[0].body) == 6_553_600
    await link.aclose()


@on_both
async def test_an_upload_is_refused_before_its_end(fake: ScriptedOllama) -> None:
    """An answer that comes while the body is being sent is read; the connection is not used again."""
    refusal = head(413, {"Content-Length": "2"}) + b"no"
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        address = Address("x", "127.0.0.1", listener.extra(SocketAttribute.local_port))  # noqa: S610 - of anyio

        async def refuse(stream: ByteStream) -> None:
            async with stream:
                await stream.receive(10)
                await stream.send(refusal)
                await anyio.sleep(1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, refuse)
            pool = Pool(address)
            for content in (zeros(1000), bytes(65_536_000)):
                with anyio.fail_after(2):
                    exchange = await pool.exchange("POST", b"POST / HTTP/1.1\r\n\r\n", content, Limits())
                assert (exchange.head.status, await exchange.receive()) == (413, b"no")
                await exchange.aclose()
                assert pool.connections == (0, 0)
            tasks.cancel_scope.cancel()
        await pool.aclose()


@on_both
async def test_an_upload_that_fails_raises_its_own_error(fake: ScriptedOllama) -> None:
    """What the source of the pieces raises comes out as it is; a wrong length is told."""

    async def breaking() -> AsyncIterator[bytes]:
        yield b"x"
        raise OSError("disk")

    link = link_to(fake)
    with anyio.fail_after(2):
        with pytest.raises(OSError, match="disk"):
            await link.open("POST", "/up", Upload(breaking(), 10))
        with pytest.raises(ConfigError, match="10 bytes"):
            await link.open("POST", "/up", Upload(zeros(1, 5), 10))
        with pytest.raises(ConfigError, match="10 bytes"):
            await link.open("POST", "/up", Upload(zeros(1, 15), 10))
    await fake.wait_until(lambda: fake.connections_total == 3)
    assert link._pool.connections == (0, 0)
    await link.aclose()


@on_both
async def test_an_upload_is_not_sent_twice(fake: ScriptedOllama) -> None:
    """Half-read pieces cannot be sent again, so a connection that closes is an error."""
    fake.enqueue("POST /up", Raw([Close()]), repeat=True)
    link = link_to(fake)
    await (await link.open("GET", "/api/version", None)).aclose()
    with pytest.raises(ConnectFailed):
        await link.open("POST", "/up", Upload(zeros(1), 65_536))
    assert len(fake.requests_to("POST /up")) == 1
    await link.aclose()


# --- TLS, unix sockets, names -------------------------------------------------------------------------------------


@on_both
async def test_tls_with_an_own_authority(authority: trustme.CA) -> None:
    """Requests and streams, over one connection."""
    async with tls_server(authority) as fake, OllamaClient(fake.url, verify=trusting(authority)) as client:
        for _ in range(3):
            assert await client.version()
            assert await read(client) == "You said: hello there"
        assert fake.connections_total == 1


@pytest.mark.parametrize("trusted", [True, False], ids=["other name", "unknown authority"])
@on_both
async def test_a_certificate_that_is_not_trusted(authority: trustme.CA, trusted: bool) -> None:  # noqa: FBT001
    """The error says why, keeps the cause, and is not retried."""
    async with tls_server(authority, "other.test") as fake:
        verify = trusting(authority) if trusted else True
        async with OllamaClient(fake.url, verify=verify) as client:
            with pytest.raises(ConnectFailed, match="certificate is not trusted") as caught:
                await client.version()
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            assert pool_of(client).connections == (0, 0)
        assert fake.connections_total <= 1


@on_both
async def test_https_to_a_plain_server_and_the_reverse(fake: ScriptedOllama, authority: trustme.CA) -> None:
    """Both are typed errors, soon."""
    limits = Timeouts(connect_s=0.2)
    with anyio.fail_after(3):
        async with OllamaClient(fake.url.replace("http:", "https:"), retry=ONCE, timeouts=limits) as client:
            with pytest.raises(ConnectFailed):
                await client.version()
        async with tls_server(authority) as tls, OllamaClient(tls.url.replace("https:", "http:"), retry=ONCE) as client:
            with pytest.raises(OllamaError):
                await client.version()


@on_both
async def test_a_unix_socket(tmp_path: Path) -> None:
    """The pool speaks over one, and a missing one is a refused connection."""
    path = tmp_path / "ollama.sock"
    async with ScriptedOllama(unix_path=path) as fake:
        link = link_to(fake)
        answer = await link.open("GET", "/api/version", None)
        assert b"version" in await answer.receive()
        await answer.aclose()
        assert link._pool.connections == (0, 1)
        await link.aclose()
        path.unlink()
        with pytest.raises(ConnectFailed, match="No such file"):
            await link_to(fake).open("GET", "/api/version", None)


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 70 + ".test", "a..b"])
@on_both
async def test_a_name_that_cannot_be_looked_up(name: str) -> None:
    """A typed error, also where the name is not even a name."""
    async with OllamaClient(f"http://{name}:11434", retry=ONCE) as client:
        with pytest.raises(ConnectFailed):
            await client.version()
