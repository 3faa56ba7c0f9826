"""Much, long and over again: floods are bounded, nothing is left behind, whoever uses a client from wherever.

The floods of test_faults are those of HTTP's framing; here are those within a stream, measured in real memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import subprocess
import sys
import threading
import zlib
from typing import TYPE_CHECKING, Any

import anyio
import psutil
import pytest
from anyio.lowlevel import checkpoint
from fakes import LAST_CHUNK, STALL, Pause, Raw, ScriptedOllama, Stream, chunk, head, line_chunk, stream_head
from fakes.ports import bound_socket

from ollama_async_mem import OllamaClient, Timeouts
from ollama_async_mem.errors import (
    FirstByteTimeout,
    OllamaError,
    ProtocolError,
    StallTimeout,
    StatusError,
    TotalTimeout,
)
from ollama_async_mem.ollama import _streams

from .backends import HI, LINE, ONCE, VERSION, on_both, pool_of, read, tls_server, together, trusting, until

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterator

    import trustme

MEBI = 1024 * 1024
GIGA = 10**9
PROCESS = psutil.Process()
DONE = {"message": {"content": ""}, "done": True}

# --- floods -------------------------------------------------------------------------------------------------------


class Flood:
    """An answer that repeats a piece up to a size, and notes how much memory this process takes meanwhile."""

    def __init__(self, opening: bytes, piece: bytes, size: int = GIGA) -> None:
        self.opening, self.piece, self.size = opening, piece, size
        self.sent = 0
        self.before = self.peak = 0

    def __call__(self) -> Iterator[bytes]:
        self.before = self.peak = PROCESS.memory_info().rss
        yield self.opening
        while self.sent < self.size:
            self.peak = max(self.peak, PROCESS.memory_info().rss)
            self.sent += len(self.piece)
            yield self.piece


def packed(data: bytes) -> bytes:
    """A gzip whose end is missing."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def zeros_unpacked() -> bytes:
    """A packed mebibyte that may be repeated: it begins with no header and refers to nothing before."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(bytes(MEBI)) + packer.flush(zlib.Z_FULL_FLUSH)


EMPTY_BLOCK = b"\0\0\0\xff\xff"  # of zlib: it stands for no byte at all
GZIP = {"Content-Encoding": "gzip"}
LENGTH = {"Content-Length": str(GIGA)}
FLOODS: dict[str, tuple[Callable[[], Flood], type[OllamaError], str]] = {
    "a line without end": (
        lambda: Flood(stream_head(), chunk(b"x" * MEBI)), ProtocolError, "a line of more than 16,777,216 bytes",
    ),
    "a text without end": (
        lambda: Flood(stream_head() + chunk(b'{"message":{"content":"'), chunk(b"x" * MEBI)),
        ProtocolError, "a line of",
    ),
    "blank lines": (lambda: Flood(stream_head(), chunk(b"\n" * MEBI)), ProtocolError, "of blank lines"),
    "blanks without a length": (lambda: Flood(b"HTTP/1.1 200 OK\r\n\r\n", b" " * MEBI), ProtocolError, "a line of"),
    "a bomb": (
        lambda: Flood(stream_head(headers=GZIP) + chunk(packed(b"")), chunk(zeros_unpacked())),
        ProtocolError, "a line of",
    ),
    "an error of a gigabyte": (lambda: Flood(head(500, LENGTH), b"x" * MEBI), StatusError, "HTTP 500"),
    "an endless error": (lambda: Flood(head(500), b"x" * MEBI), StatusError, "HTTP 500"),
    "an error in a bomb": (
        lambda: Flood(stream_head(500, GZIP) + chunk(packed(b"")), chunk(zeros_unpacked())),
        StatusError, "HTTP 500",
    ),
    "a redirect of a gigabyte": (lambda: Flood(head(307, {**LENGTH, "Location": ""}), b"x" * MEBI), StatusError, "307"),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
@on_both
async def test_a_flood_within_a_stream(fake: ScriptedOllama, name: str) -> None:
    """A typed error, long before its end; memory does not grow with it, and the connection is closed."""
    make, error, says = FLOODS[name]
    flood = make()
    fake.enqueue("POST /api/chat", Raw(flood))
    async with OllamaClient(fake.url, retry=ONCE) as client:
        with anyio.fail_after(10), pytest.raises(error, match=says):
            await read(client)
        assert pool_of(client).connections == (0, 0)
    await fake.wait_closed_connections()
    assert flood.sent < 64 * MEBI
    assert flood.peak - flood.before < 40 * MEBI


@on_both
async def test_an_answer_without_end(fake: ScriptedOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many good lines come, a stream has a limit; what had come is kept."""
    monkeypatch.setattr(_streams, "MAX_STREAM_BYTES", 4 * MEBI)
    flood = Flood(stream_head(), line_chunk({"message": {"content": "x" * 10_000}}))
    fake.enqueue("POST /api/chat", Raw(flood))
    async with OllamaClient(fake.url, retry=ONCE) as client:
        with anyio.fail_after(10), pytest.raises(ProtocolError, match="stream of more than 4,194,304 bytes") as caught:
            await read(client)
        assert pool_of(client).connections == (0, 0)
    assert 3 * MEBI < len(caught.value.partial) < 4 * MEBI
    assert flood.sent < 32 * MEBI


@on_both
async def test_a_flood_behind_done(fake: ScriptedOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is there; what follows is read for 64 KiB at most, then the connection is closed."""
    monkeypatch.setattr(_streams, "REST_S", 5)  # else time may end it first
    flood = Flood(stream_head() + line_chunk(DONE), chunk(b"\n" * 10_000))
    fake.enqueue("POST /api/chat", Raw(flood))
    async with OllamaClient(fake.url) as client:
        with anyio.fail_after(2):
            assert await read(client) == ""
        assert pool_of(client).connections == (0, 0)
        await until(lambda: fake.open_connections == 0, 1)
    assert flood.sent < 32 * MEBI  # most of which filled the buffers of the socket


@on_both
async def test_a_hundred_thousand_chunks_in_one_write(fake: ScriptedOllama) -> None:
    """All of them come, in little memory, and other tasks have their turns meanwhile."""
    fake.enqueue("POST /api/chat", Raw([stream_head() + line_chunk(LINE) * 100_000 + line_chunk(DONE) + LAST_CHUNK]))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with OllamaClient(fake.url) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        async with client.stream_chat("m", HI) as stream:
            count = 0
            async for got in stream:
                count += len(got.message.content)
        tasks.cancel_scope.cancel()
        assert count == 100_000
        assert turns > 20
        assert pool_of(client).connections == (0, 1)


def drops(opening: bytes, data: bytes) -> Raw:
    """An answer that comes byte by byte, each after 10 ms."""
    return Raw([opening, *(step for i in range(len(data)) for step in (Pause(0.01), data[i : i + 1])), STALL])


SLOW: dict[str, tuple[Raw, type[OllamaError]]] = {
    "a head": (drops(b"", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50), FirstByteTimeout),
    "a chunk's size": (drops(stream_head() + b"5;", b"x" * 100), StallTimeout),
    "trailers": (drops(stream_head() + b"0\r\n", b"a: b\r\n" * 50), StallTimeout),
    "packed nothing": (drops(stream_head(headers=GZIP) + chunk(packed(b"")), chunk(EMPTY_BLOCK) * 50), StallTimeout),
}


@pytest.mark.parametrize("name", SLOW)
@on_both
async def test_a_slow_server_that_says_nothing(fake: ScriptedOllama, name: str) -> None:
    """Bytes that are no part of an answer do not count: the limits end it."""
    answer, error = SLOW[name]
    fake.enqueue("POST /api/chat", answer)
    limits = Timeouts(connect_s=0.5, first_byte_s=0.1, stall_s=0.2)
    async with OllamaClient(fake.url, retry=ONCE, timeouts=limits) as client:
        with anyio.fail_after(2), pytest.raises(error):
            await read(client)
        assert pool_of(client).connections == (0, 0)


@on_both
async def test_a_slow_server_that_answers(fake: ScriptedOllama) -> None:
    """However slowly it comes, an answer that goes on is read; a limit for the whole ends that too."""
    line = b'{"message":{"content":"slow"}}\n'
    answer = drops(stream_head() + b"%x\r\n" % len(line), line)
    fake.enqueue("POST /api/chat", answer, answer)
    limits = Timeouts(stall_s=0.2)
    async with OllamaClient(fake.url, timeouts=limits) as client, client.stream_chat("m", HI) as stream:
        assert (await anext(stream)).message.content == "slow"
        with pytest.raises(StallTimeout):
            await anext(stream)
    async with OllamaClient(fake.url, retry=ONCE, timeouts=Timeouts(stall_s=0.2, total_s=0.2)) as client:
        with pytest.raises(TotalTimeout):
            await read(client)


# --- over and over ------------------------------------------------------------------------------------------------


async def held() -> tuple[int, int, int]:
    """How many file descriptors, threads and tasks there are."""
    return PROCESS.num_fds(), threading.active_count(), len(tasks_of_asyncio())


def tasks_of_asyncio() -> set[asyncio.Task[Any]]:
    """All tasks of the running loop; none where it is not asyncio's."""
    try:
        return asyncio.all_tasks()
    except RuntimeError:
        return set()


async def no_more_than(before: tuple[int, int, int]) -> None:
    """Check that nothing more is held, soon: the sockets of the server, in its thread, take their time."""
    gc.collect()
    with anyio.fail_after(2):
        while any(now > then for now, then in zip(await held(), before, strict=True)):  # noqa: ASYNC110 - as above
            await anyio.sleep(0.01)


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that a block leaves nothing behind."""
    gc.collect()
    before = await held()
    yield
    await no_more_than(before)


@contextlib.contextmanager
def plain_server() -> Iterator[str]:
    """A server of few lines that is fast: it answers each request of its one connection with a version."""
    answer = head(headers={"Content-Length": str(len(VERSION))}) + VERSION

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            while connection.recv(65_536):
                connection.sendall(answer)

    with bound_socket() as listening:
        listening.listen()
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(5)
        assert not thread.is_alive()


@on_both
async def test_ten_thousand_requests_use_one_connection() -> None:
    """And leave nothing."""
    async with nothing_left():
        with plain_server() as url:
            async with OllamaClient(url) as client:
                for _ in range(10_000):
                    await client.version()
                assert pool_of(client).connections == (0, 1)


@on_both
async def test_a_thousand_connections_at_once(fake: ScriptedOllama) -> None:
    """All are open at the same time, since none is answered before; afterwards none is."""

    def steps() -> Iterator[Any]:
        while len(fake.requests) < 1000:
            yield Pause(0.05)
        yield head(headers={"Content-Length": str(len(VERSION))}) + VERSION

    fake.enqueue("GET /api/version", Raw(steps), repeat=True)
    async with nothing_left():
        async with OllamaClient(fake.url, max_connections=1000) as client:
            await together(*[client.version] * 1000)
            assert pool_of(client).connections == (0, 1000)
        assert pool_of(client).connections == (0, 0)
        await fake.wait_closed_connections()


@on_both
async def test_a_thousand_streams_broken_off(fake: ScriptedOllama) -> None:
    """Ten at a time, in the middle, by leaving, by an error, and by cancelling."""
    fake.enqueue("POST /api/chat", Raw([stream_head(), line_chunk(LINE), STALL]), repeat=True)

    async def left(client: OllamaClient, how: int) -> None:
        with anyio.CancelScope() as scope:
            async with client.stream_chat("m", HI) as stream:
                async for _ in stream:
                    if how == 0:
                        break
                    if how == 1:
                        scope.cancel()
                    else:
                        raise KeyError

    async def one(client: OllamaClient, first: int) -> None:
        for how in range(first, first + 100):
            try:
                await left(client, how % 3)
            except KeyError:
                assert how % 3 == 2

    async with nothing_left(), OllamaClient(fake.url) as client:
        await together(*(functools.partial(one, client, first) for first in range(10)))
        assert pool_of(client).connections == (0, 0)
        await fake.wait_closed_connections(1)
    assert len(fake.requests) == fake.connections_total == 1000


@on_both
async def test_iterations_that_are_left_leave_no_warnings(fake: ScriptedOllama) -> None:
    """Of chunks, of text, and of progress; a generator that nobody closes is a warning on trio."""
    async with nothing_left(), OllamaClient(fake.url) as client:
        async with client.stream_chat("m", HI) as stream:
            async for _ in stream.text():
                break
        async with client.stream_chat("m", HI) as stream:
            async for _ in stream:
                break
        async with client.stream_pull("m") as progress:
            async for _ in progress:
                break
        await client.aclose()
        assert pool_of(client).connections == (0, 0)


# --- loops, threads, processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backends", [("asyncio", "asyncio"), ("asyncio", "trio")], ids="+".join)
def test_a_client_serves_two_threads_at_once(fake: ScriptedOllama, backends: tuple[str, str]) -> None:
    """Each has a loop and connections of its own; they end with it, whoever closes the client."""
    client = OllamaClient(fake.url, max_connections=5)
    texts: list[str] = []

    async def work() -> None:
        async def ask() -> None:
            for _ in range(5):
                texts.append(await read(client))
                await client.version()

        await together(*[ask] * 10)

    before = anyio.run(held)
    threads = [threading.Thread(target=functools.partial(anyio.run, work, backend=name)) for name in backends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    anyio.run(client.aclose)
    anyio.run(no_more_than, before)
    assert texts == ["You said: hello there"] * 100
    assert fake.connections_total <= 10
    anyio.run(fake.wait_closed_connections)


FORGETFUL = """
import asyncio, gc, logging, os, sys, anyio
from ollama_async_mem import OllamaClient

logging.getLogger("asyncio").setLevel(logging.ERROR)  # that a machine is slow is not to be told

client, [how] = OllamaClient(sys.argv[1]), sys.argv[2:]

async def tokens():
    async with client.stream_chat("m", [{"role": "user", "content": "one two three"}]) as stream:
        async for token in stream.text():
            yield token

async def never_closed():
    await client.version()
    async for _ in tokens():
        break

def in_a_loop():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(client.version())
    loop.close()

async def forked():
    await client.version()
    if child := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        await client.version()
    else:
        asyncio.run(client.version())
        asyncio.run(client.aclose())
        os._exit(0)

if how == "never closed":
    asyncio.run(never_closed())
    asyncio.run(never_closed())
    anyio.run(client.version, backend="trio")
if how == "loops closed by hand":
    for _ in range(20):
        in_a_loop()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < 15
if how == "forked":
    asyncio.run(forked())
print("good")
"""


def run_python(*arguments: str) -> tuple[str, str]:
    """Run the script above in development mode, where every warning is told; returns what it said."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", FORGETFUL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("how", ["never closed", "forked"])
def test_who_forgets_to_close_is_told_nothing(fake: ScriptedOllama, how: str) -> None:
    """An event loop that ends closes its connections; a forked process makes its own and leaves its parent's."""
    assert run_python(fake.url, how) == ("good\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_loops_that_were_closed_by_hand_leave_nothing_but_warnings(fake: ScriptedOllama) -> None:
    """Their sockets are let go of: no "Event loop is closed", and no pile of descriptors."""
    said, warned = run_python(fake.url, "loops closed by hand")
    assert said == "good\n"
    assert "ResourceWarning: unclosed" in warned
    assert "Event loop is closed" not in warned


# --- cancellation -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def silent_listener(*, backlog: int = 8) -> Iterator[socket.socket]:
    """A port that takes connections, and says and reads nothing."""
    with bound_socket() as listening:
        listening.setblocking(False)
        listening.listen(backlog)
        yield listening


async def hangs_up(connection: socket.socket) -> None:
    """Wait for the client to close, within 50 ms; what it sent is dropped."""
    connection.setblocking(False)
    with connection, anyio.fail_after(0.05):
        while True:
            try:
                if not connection.recv(MEBI):
                    return
            except BlockingIOError:
                await anyio.sleep(0.001)
            except ConnectionResetError:
                return


async def cancelled(work: Callable[[], Any], *, when: Callable[[], bool]) -> None:
    """Begin something, and cancel it once it is where it should be."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await until(when, 2)
        await anyio.sleep(0.02)
        assert when()
        tasks.cancel_scope.cancel()


@on_both
async def test_cancelled_while_it_connects() -> None:
    """The socket is gone."""
    with silent_listener(backlog=0) as listening, bound_socket() as first, bound_socket() as second:
        for other in (first, second):  # they fill the queue of the port: who comes later gets no answer
            other.setblocking(False)
            other.connect_ex(listening.getsockname())
        before = PROCESS.num_fds()
        async with OllamaClient(f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            await cancelled(
                client.version,
                when=lambda: PROCESS.num_fds() > before and pool_of(client).connections == (0, 0),
            )
            await until(lambda: PROCESS.num_fds() <= before)


@pytest.mark.parametrize("stage", ["handshake", "sending", "head"])
@on_both
async def test_cancelled_before_the_answer(authority: trustme.CA, stage: str) -> None:
    """While TLS is set up, while a request that is not read is sent, and while the answer does not begin."""
    accepted: list[socket.socket] = []

    def is_connected() -> bool:
        with contextlib.suppress(BlockingIOError):
            accepted.append(listening.accept()[0])
        return bool(accepted)

    with silent_listener() as listening:
        scheme = "https" if stage == "handshake" else "http"
        async with OllamaClient(
            f"{scheme}://127.0.0.1:{listening.getsockname()[1]}", verify=trusting(authority)
        ) as client:
            texts = ["x" * 30_000_000] if stage == "sending" else ["x"]
            await cancelled(functools.partial(client.embed, "m", texts), when=is_connected)
            await hangs_up(accepted[0])
            assert pool_of(client).connections == (0, 0)


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
@on_both
async def test_cancelled_while_an_answer_is_read(authority: trustme.CA, is_tls: bool) -> None:  # noqa: FBT001
    """The server sees the end of its socket within 50 ms."""
    async with tls_server(authority) if is_tls else ScriptedOllama() as server:
        server.enqueue("POST /api/chat", Stream([LINE] * 10_000, interval_s=0.005))
        async with OllamaClient(server.url, verify=trusting(authority)) as client:
            await cancelled(functools.partial(read, client), when=lambda: bool(server.requests))
            await until(lambda: server.open_connections == 0)
            assert pool_of(client).connections == (0, 0)


@on_both
async def test_cancelled_while_it_waits_for_a_connection(fake: ScriptedOllama) -> None:
    """Nobody takes its turn; who holds the connection goes on."""
    fake.enqueue("POST /api/chat", Raw([stream_head(), line_chunk(LINE), Pause(0.1), line_chunk(DONE), LAST_CHUNK]))
    async with OllamaClient(fake.url, max_connections=1) as client, client.stream_chat("m", HI) as stream:
        await anext(stream)
        await cancelled(client.version, when=lambda: True)
        assert [got.done async for got in stream] == [True]
        assert pool_of(client).connections == (0, 1)
        with anyio.fail_after(1):
            assert await client.version()
    assert len(fake.requests) == 2


@on_both
async def test_cancelled_while_it_closes(fake: ScriptedOllama) -> None:
    """All connections are closed all the same."""
    client = OllamaClient(fake.url)
    await together(*[client.version] * 5)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.aclose()
    await until(lambda: fake.open_connections == 0)
    assert pool_of(client).connections == (0, 0)
