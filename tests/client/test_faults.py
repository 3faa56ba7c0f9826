"""The client against faults of every kind, on asyncio and on trio: nothing hangs, nothing leaks, nothing foreign."""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import ssl
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from fakes import STALL, Close, Hold, Pause, Raw, Reply, Reset, ScriptedOllama, Stream, head, ndjson
from fakes import chunk as http_chunk
from fakes.ports import bound_socket

from ollama_async_mem import OllamaClient, Timeouts
from ollama_async_mem.errors import (
    ConfigError,
    OllamaError,
    ProtocolError,
    StallTimeout,
    StatusError,
    TotalTimeout,
)
from ollama_async_mem.ollama._connection import Address, Limits
from ollama_async_mem.ollama._pool import Pool

from .backends import (
    BACKENDS,
    HI,
    LINE,
    ONCE,
    VERSION,
    cancelled_everywhere,
    on_both,
    pool_of,
    read,
    tls_server,
    together,
    trusting,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import trustme

# --- cancellation -------------------------------------------------------------------------------------------------


async def stale_then_version(client: OllamaClient, fake: ScriptedOllama) -> None:
    """A request on a connection that the server closed."""
    await client.version()
    await fake.drop_connections()
    await client.version()


async def refused(client: OllamaClient, fake: ScriptedOllama) -> None:
    """A request that is refused with words."""
    fake.enqueue("GET /api/tags", Reply(404, json={"error": "no"}))
    with pytest.raises(StatusError):
        await client.tags()


async def queueing(client: OllamaClient, fake: ScriptedOllama) -> None:
    """Three requests for one connection."""
    await together(client.version, client.version, client.version)


async def large(client: OllamaClient, fake: ScriptedOllama) -> None:
    """A request that does not fit into the buffers of a socket."""
    await client.embed("m", ["x" * 3_000_000])


SCENARIOS: dict[str, Callable[[OllamaClient, ScriptedOllama], Any]] = {
    "whole": lambda client, _: client.version(),
    "stream": lambda client, _: read(client),
    "stale": stale_then_version,
    "refused": refused,
    "queueing": queueing,
    "large": large,
}


async def check_cancelled_everywhere(client: OllamaClient, fake: ScriptedOllama, scenario: Any) -> None:
    """Cancel a scenario at every place; the pool is whole again at once, and its only slot is free."""
    await client.version()
    pool = pool_of(client)
    async for _ in cancelled_everywhere(lambda: scenario(client, fake)):
        await until(lambda: pool.connections in {(0, 0), (0, 1)})
        await until(lambda: fake.open_connections == pool.connections[1], 1)
        with anyio.fail_after(5):
            assert await client.version()
        fake._answers.clear()


@pytest.mark.parametrize("name", SCENARIOS)
@on_both
async def test_cancelled_anywhere_nothing_leaks(fake: ScriptedOllama, name: str) -> None:
    """Wherever a request is cancelled, its socket is closed within 50 ms and its slot is free."""
    async with OllamaClient(fake.url, max_connections=1) as client:
        await check_cancelled_everywhere(client, fake, SCENARIOS[name])
    await fake.wait_closed_connections()


@on_both
async def test_cancelled_anywhere_over_tls(authority: trustme.CA) -> None:
    """The same with a handshake."""
    async with tls_server(authority) as fake, OllamaClient(fake.url, verify=trusting(authority)) as client:
        await check_cancelled_everywhere(client, fake, stale_then_version)


async def test_a_task_of_asyncio_is_cancelled_anywhere(fake: ScriptedOllama) -> None:
    """`Task.cancel` at any time leaves no socket and no slot behind."""
    async with OllamaClient(fake.url, max_connections=2) as client:
        await client.version()
        for turns in range(40):
            tasks = [asyncio.create_task(read(client)) for _ in range(5)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await until(lambda: pool_of(client).connections[0] == 0)
        async with asyncio.timeout(5):
            assert all(await asyncio.gather(client.version(), client.version()))
    await fake.wait_closed_connections()


# --- closing ------------------------------------------------------------------------------------------------------


@on_both
async def test_closing_ends_what_waits_and_what_is_in_flight(fake: ScriptedOllama) -> None:
    """Whoever waits for an answer, in a stream or for a connection gets an error at once."""
    fake.enqueue("POST /api/chat", Raw([head(headers={"Transfer-Encoding": "chunked"}), http_chunk(LINE), STALL]))
    fake.enqueue("GET /api/version", Raw([STALL]), repeat=True)
    failures: list[OllamaError] = []

    async def fails(work: Callable[[], Any]) -> None:
        with pytest.raises(OllamaError, match=r"client (is|was) closed") as caught:
            await work()
        failures.append(caught.value)

    client = OllamaClient(fake.url, max_connections=2)
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails, functools.partial(read, client))
            for _ in range(4):
                tasks.start_soon(fails, client.version)
            await fake.wait_until(lambda: len(fake.requests) == 2)
            await client.aclose()
    assert len(failures) == 5
    assert pool_of(client).connections == (0, 0)
    await fails(client.version)
    await client.aclose()


@on_both
async def test_closing_ends_who_connects(fake: ScriptedOllama) -> None:
    """Also a connection that is still being made is given up."""
    with bound_socket() as silent:
        silent.listen()  # connects, but no handshake ever comes
        pool = Pool(Address("x", "127.0.0.1", silent.getsockname()[1], tls=ssl.create_default_context()))

        async def connect() -> None:
            with pytest.raises(OllamaError, match="closed"):
                await pool.exchange("GET", b"", b"", Limits(connect_s=5))

        with anyio.fail_after(2):
            await together(connect, functools.partial(later, 0.05, pool.aclose))
        assert pool.connections == (0, 0)


async def later(seconds: float, work: Callable[[], Any]) -> None:
    """Do something after a while."""
    await anyio.sleep(seconds)
    await work()


@on_both
async def test_a_closed_client_is_closed_before_its_first_request() -> None:
    """It then makes no connection either."""
    client = OllamaClient("http://127.0.0.1:9")
    await client.aclose()
    with pytest.raises(OllamaError, match="closed"):
        await client.version()


@pytest.mark.parametrize("second", BACKENDS)
@pytest.mark.parametrize("first", BACKENDS)
def test_a_client_is_used_from_one_event_loop_after_another(fake: ScriptedOllama, first: str, second: str) -> None:
    """Each loop closes its own connections when it ends; the client goes on in the next."""
    client = OllamaClient(fake.url)
    for backend in (first, second):
        anyio.run(client.version, backend=backend)
        gc.collect()
        anyio.run(functools.partial(fake.wait_closed_connections, 1))
        assert pool_of(client).connections == (0, 0)

    async def last() -> None:
        await client.version()
        await client.aclose()

    anyio.run(last, backend=second)
    anyio.run(fake.wait_closed_connections)


# --- floods and noise ---------------------------------------------------------------------------------------------


def endless(opening: bytes, piece: bytes) -> Raw:
    """An answer that does not end."""

    def steps() -> Iterator[bytes]:
        yield opening
        while True:
            yield piece

    return Raw(steps)


MEBI = 1024 * 1024
STREAM = head(headers={"Transfer-Encoding": "chunked"})
FLOODS = {
    "headers": endless(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1000),
    "one header": endless(b"HTTP/1.1 200 OK\r\na: ", b"b" * MEBI),
    "interim heads": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "no line end": endless(b"", b"HTTP/1.1" * 1000),
    "chunk extension": endless(STREAM + b"5;", b"x" * 10_000),
    "trailers": endless(STREAM + b"0\r\n", b"a: b\r\n" * 1000),
    "body": endless(STREAM, http_chunk(b" " * MEBI)),
    "length": endless(head(headers={"Content-Length": "9" * 15}), b" " * MEBI),
    "until close": endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * MEBI),
    "line": endless(STREAM, http_chunk(b"x" * MEBI)),
}


BLANK = {"body", "length", "until close"}  # blank lines are legal in a stream, and cost nothing there
FLOODED = [
    (method, name) for name in FLOODS for method in ("whole", "stream") if method == "whole" or name not in BLANK
]


@pytest.mark.parametrize(("method", "name"), FLOODED)
@on_both
async def test_a_flood_ends_in_a_typed_error(fake: ScriptedOllama, method: str, name: str) -> None:
    """Memory stays bounded, whatever does not end."""
    fake.enqueue("GET /api/tags", FLOODS[name])
    fake.enqueue("POST /api/chat", FLOODS[name])
    async with OllamaClient(fake.url, retry=ONCE) as client:
        tracemalloc.start()
        try:
            with anyio.fail_after(20), pytest.raises(ProtocolError):
                await (client.tags() if method == "whole" else read(client))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 200 * MEBI
        assert pool_of(client).connections == (0, 0)


@on_both
async def test_little_that_unpacks_to_much_is_bounded(fake: ScriptedOllama) -> None:
    """Content encodings are unpacked piece by piece, and checked."""
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(bytes(128 * MEBI)) + packer.flush()
    good = zlib.compress(VERSION)
    answers = [(bomb, "gzip"), (good[:-3], "gzip"), (b"nonsense", "deflate"), (good + b"x", "deflate"), (good, "br")]
    async with OllamaClient(fake.url, retry=ONCE) as client:
        for body, encoding in answers:
            fake.enqueue("GET /api/version", Reply(body=body, headers={"Content-Encoding": encoding}))
            with pytest.raises(OllamaError):
                await client.version()
            assert pool_of(client).connections[0] == 0
        fake.enqueue("GET /api/version", Reply(body=good, headers={"Content-Encoding": "GZip"}))
        assert await client.version() == "1"


@on_both
async def test_random_noise_never_hangs_and_is_never_foreign(fake: ScriptedOllama) -> None:
    """Random bytes, from the first one and within an answer, cut anywhere, are our own errors."""
    dice = random.Random(7)  # noqa: S311 - repeatable
    words = [b"\r\n", b"\n", b"0", b"5\r\n", b"hello", b": ", b"HTTP/1.1 200 OK", b'{"version":', b"Content-Length: 3"]
    openings = [b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", STREAM, head(headers={"Content-Length": "50"})]
    async with OllamaClient(fake.url, retry=ONCE, max_connections=1) as client:
        for _ in range(150):
            noise: list[Any] = [
                dice.choice([*words, dice.randbytes(dice.randint(1, 20))]) for _ in range(dice.randint(0, 12))
            ]
            end: Any = dice.choice([Close(), Reset()])
            fake.enqueue("GET /api/version", Raw([dice.choice(openings), *noise, end]))
            with anyio.fail_after(5), pytest.raises(OllamaError):
                await client.version()
            assert pool_of(client).connections[0] == 0


# --- endurance ----------------------------------------------------------------------------------------------------


@on_both
async def test_two_thousand_requests_leak_nothing(fake: ScriptedOllama) -> None:
    """One connection for all of them."""
    async with OllamaClient(fake.url) as client:
        for _ in range(2_000):
            await client.version()
        assert pool_of(client).connections == (0, 1)
        assert fake.connections_total == 1
    await fake.wait_closed_connections()


@on_both
async def test_a_thousand_at_once_leak_nothing(fake: ScriptedOllama) -> None:
    """They share the connections that are allowed."""
    hold = Hold()
    fake.enqueue("GET /api/version", *[Raw([hold, head(headers={"Content-Length": "15"}) + VERSION])] * 50)
    async with OllamaClient(fake.url, max_connections=50) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(client.version)
            await fake.wait_until(lambda: len(fake.requests) == 50)
            assert pool_of(client).connections == (50, 0)
            hold.release()
        assert pool_of(client).connections == (0, 50)
    await fake.wait_closed_connections()
    assert len(fake.requests) == 1000


@on_both
async def test_a_stream_that_is_left_early_is_closed_at_once(fake: ScriptedOllama) -> None:
    """Within 50 ms, so that the server stops to generate."""
    fake.enqueue("POST /api/chat", Stream([LINE] * 10_000, interval_s=0.01), repeat=True)
    async with OllamaClient(fake.url) as client:
        for _ in range(5):
            async with client.stream_chat("m", HI) as stream:
                await anext(aiter(stream))
            await until(lambda: fake.open_connections == 0)
            assert pool_of(client).connections == (0, 0)


@on_both
async def test_two_tasks_cannot_read_one_answer(fake: ScriptedOllama) -> None:
    """The second is told so; the first goes on."""
    fake.enqueue("GET /x", Raw([STREAM, Pause(0.1), http_chunk(b"x"), b"0\r\n\r\n"]))
    pool = Pool(Address(fake.url, "127.0.0.1", fake.port))
    exchange = await pool.exchange("GET", b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n", b"", Limits())

    async def second() -> None:
        with pytest.raises(OllamaError, match="two tasks"):
            await exchange.receive()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(later, 0.02, second)
        assert await exchange.receive() == b"x"
    await exchange.aclose()
    await pool.aclose()


BAD_LINE = http_chunk(b"no JSON\n")
BREAKS: dict[str, tuple[Any, Timeouts, type[OllamaError]]] = {
    "a stall": (STALL, Timeouts(first_byte_s=0.2, stall_s=0.2), StallTimeout),
    "the end of its time": (STALL, Timeouts(total_s=0.3), TotalTimeout),
    "a bad line": (BAD_LINE, Timeouts(), ProtocolError),
}


@pytest.mark.parametrize("name", BREAKS)
@on_both
async def test_whatever_ends_a_stream_keeps_its_text(fake: ScriptedOllama, name: str) -> None:
    """The error has all that had come."""
    step, limits, kind = BREAKS[name]
    fake.enqueue("POST /api/chat", Raw([STREAM, http_chunk(LINE), http_chunk(LINE), step]))
    async with OllamaClient(fake.url, retry=ONCE, timeouts=limits) as client:
        with pytest.raises(kind) as caught:
            await read(client)
    assert caught.value.partial == "xx"


@on_both
async def test_a_stream_that_was_left_is_not_iterated_as_if_it_had_ended(fake: ScriptedOllama) -> None:
    """Half an answer is not taken for a whole one; one that was read to its end has nothing more to give."""
    async with OllamaClient(fake.url) as client:
        async with client.stream_chat("m", HI) as stream:
            await anext(stream)
        for pieces in (stream, stream.text()):
            with pytest.raises(ConfigError, match="left before its end"):
                assert [piece async for piece in pieces]
        async with client.stream_chat("m", HI) as stream:
            assert [chunk async for chunk in stream]
        assert not [chunk async for chunk in stream]


@on_both
async def test_the_words_of_an_error_are_bounded(fake: ScriptedOllama) -> None:
    """Their middle is left out, of refusals and of errors within a stream."""
    error = {"error": "first" + "x" * 60_000 + "last"}
    fake.enqueue("POST /api/chat", Reply(500, json=error), ndjson(error))
    async with OllamaClient(fake.url, retry=ONCE) as client:
        for _ in range(2):
            with pytest.raises(OllamaError, match=r"first.* \.\.\. .*last") as caught:
                await read(client)
            assert len(str(caught.value)) < 1100
