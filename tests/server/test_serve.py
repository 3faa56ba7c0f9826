"""The whole server: what it listens on, how it starts and ends, and clients that are slow, broken or gone."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import trustme
from anyio.abc import SocketAttribute

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.server.keys import KeyFile
from ollama_async_mem.server.later import Later
from ollama_async_mem.server.lifespan import lifespan
from ollama_async_mem.server.settings import ServerSettings, is_loopback

from .small import Served, Small, off_loop, small_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import SocketStream
    from fakes import ScriptedOllama

HEAD = b"GET /x HTTP/1.1\r\nHost: localhost\r\n"
RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
POST = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def rest_of(stream: SocketStream, limit_s: float = 5.0) -> bytes:
    """All that a server sends until it closes the connection."""
    received = b""
    with anyio.fail_after(limit_s):
        try:
            while True:
                received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return received


async def connected(server: Served) -> SocketStream:
    """A connection to REST."""
    return await anyio.connect_tcp("127.0.0.1", server.port)


async def test_parts_have_their_places(tmp_path: Path) -> None:
    """MCP under its path, REST everywhere else, the proxy on a port of its own; each starts and ends."""
    mcp = Small("mcp")
    async with small_server(tmp_path, mcp=mcp) as server:
        for path, name in (("/mcp", "mcp"), ("/mcp/x", "mcp"), ("/mcpx", "rest"), ("/", "rest")):
            assert (await server.get(path)).json()["app"] == name
        assert (await server.http.get(f"{server.proxy_url}/mcp")).json()["app"] == "proxy"
        assert set(server.running.urls) == {"rest", "page", "mcp", "proxy"}
        assert server.rest.lifespan == mcp.lifespan == ["startup"]
    assert server.rest.lifespan == server.proxy.lifespan == mcp.lifespan == ["startup", "shutdown"]


async def test_each_part_can_be_switched_off(tmp_path: Path) -> None:
    """What is off has no address, and where nothing is left on a port there is no port."""
    async with small_server(tmp_path, rest=False, mcp=Small("mcp")) as server:
        assert set(server.running.urls) == {"mcp", "proxy"}
        base = server.running.urls["mcp"].removesuffix("/mcp")
        assert (await server.http.get(f"{base}/x")).status_code == 404
    async with small_server(tmp_path, proxy=False, page=False) as server:
        assert set(server.running.urls) == {"rest"}
    with pytest.raises(ConfigError, match="at least one"):
        ServerSettings(rest=False, mcp=False, proxy=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
async def test_nobody_listens_to_the_world_without_a_key(tmp_path: Path, host: str) -> None:
    """It says how to make one; with a revoked one it is the same."""
    file = KeyFile(tmp_path / "keys.json")
    key, _ = await off_loop(file.create, "phone")
    await off_loop(file.revoke, key.id)
    with pytest.raises(ConfigError, match="keys create"):
        async with small_server(tmp_path, host=host):
            pass


async def test_with_a_key_it_listens_to_the_world_and_asks_for_it(tmp_path: Path) -> None:
    """On each address under that address's own name."""
    async with small_server(tmp_path, keys=1, host="0.0.0.0") as server:
        key = await server.key()
        assert (await server.http.get(f"http://127.0.0.1:{server.port}/x")).status_code == 401
        answer = await server.http.get(f"http://127.0.0.1:{server.port}/x", headers={"x-api-key": key})
        assert answer.status_code == 200


def test_what_is_loopback() -> None:
    """Addresses and names that only this machine reaches."""
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST.", "x.localhost"]))
    assert not any(
        map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "", "localhost.example.org", "127.0.0.1.example.org"])
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 70_000},
        {"deadline_s": 0},
        {"body_bytes": -1},
        {"tls_key": "k"},
        {"trusted_proxy": ("nginx",)},
        {"allow_origin": ("x.org",)},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    """Say which and what is allowed."""
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be"):
        ServerSettings(**settings)


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Is said, with the way out; what was bound before is free again."""
    async with small_server(tmp_path) as server:
        with pytest.raises(ConfigError, match="--proxy-port"):
            async with small_server(tmp_path, proxy_port=server.port):
                pass


async def test_https(tmp_path: Path) -> None:
    """With a certificate; a file that is none is said."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    await off_loop(issued.cert_chain_pems[0].write_to_path, cert)
    await off_loop(issued.private_key_pem.write_to_path, key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with small_server(tmp_path, tls=context, tls_cert=str(cert), tls_key=str(key)) as server:
        assert server.url.startswith("https://")
        assert (await server.get()).json()["scheme"] == "https"
        assert (await server.post(origin=server.url)).status_code == 200
        assert (await server.post(origin=server.url.replace("https", "http"))).status_code == 403
    for wrong in (str(key), str(tmp_path / "none.pem")):
        with pytest.raises(ConfigError, match="--tls-cert"):
            async with small_server(tmp_path, tls_cert=wrong):
                pass


async def test_the_end_waits_for_answers(tmp_path: Path) -> None:
    """What is under way is told and finishes, and nothing new is taken."""
    async with anyio.create_task_group() as tasks:
        answers: list[httpx.Response] = []
        async with small_server(tmp_path) as server:

            async def ask() -> None:
                async with httpx.AsyncClient() as http:
                    answers.append(await http.get(f"{server.url}/hold"))

            tasks.start_soon(ask)
            await server.rest.held.wait()
            server.running.stop()
            await server.rest.stopping.wait()
            with anyio.fail_after(2):
                while await can_connect(server.port):  # noqa: ASYNC110 - the listener tells nobody
                    await anyio.sleep(0.01)
            server.rest.go.set()
    assert answers[0].json()["path"] == "/hold"
    assert server.rest.lifespan == ["startup", "shutdown"]


async def test_the_end_has_a_deadline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that does not finish is cancelled, and the app has ended when the server has."""
    with anyio.fail_after(4):
        async with httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
            async with small_server(tmp_path, deadline_s=1) as server:
                tasks.start_soon(broken_off, http, f"{server.url}/hold")
                await server.rest.held.wait()
            assert server.rest.is_gone_at_the_end
    assert "Cancel 1 running" in caplog.text
    assert "Traceback" not in caplog.text


async def broken_off(http: httpx.AsyncClient, url: str) -> None:
    """Ask for what does not come to an end."""
    with pytest.raises(httpx.HTTPError):
        await http.get(url)


async def can_connect(port: int) -> bool:
    """Whether somebody listens."""
    try:
        async with await anyio.connect_tcp("127.0.0.1", port):
            return True
    except OSError:
        return False


async def test_a_head_that_does_not_come(tmp_path: Path) -> None:
    """Closes the connection: nothing at all, bytes in drops, or blank lines between two requests."""
    async with small_server(tmp_path, head_s=0.3) as server:
        async with await connected(server) as silent:
            assert await rest_of(silent, 2) == b""
        async with await connected(server) as dropping, anyio.create_task_group() as tasks:
            tasks.start_soon(drip, dropping, HEAD)
            assert b"408 Request Timeout" in await rest_of(dropping, 2)
        async with await connected(server) as between, anyio.create_task_group() as tasks:
            await between.send(HEAD + b"\r\n")
            assert b"200 OK" in await between.receive()
            tasks.start_soon(drip, between, b"\r\n" * 100)
            assert b"408 Request Timeout" in await rest_of(between, 2)
        assert (await server.get()).status_code == 200


async def drip(stream: SocketStream, content: bytes) -> None:
    """Send a byte now and then, until nobody wants them."""
    try:
        for byte in content:
            await stream.send(bytes([byte]))
            await anyio.sleep(0.05)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass


async def test_an_answer_may_take_longer_than_a_head(tmp_path: Path) -> None:
    """The patience for heads does not end requests whose head has come."""
    async with small_server(tmp_path, head_s=0.2) as server, anyio.create_task_group() as tasks:
        answers = []

        async def ask() -> None:
            answers.append(await server.get("/hold"))

        tasks.start_soon(ask)
        await server.rest.held.wait()
        await anyio.sleep(0.5)
        server.rest.go.set()
        await server.rest.gone.wait()
    assert answers[0].status_code == 200


async def test_a_connection_that_is_idle(tmp_path: Path) -> None:
    """Is closed after a while."""
    async with small_server(tmp_path, keep_alive_s=1) as server, await connected(server) as stream:
        await stream.send(HEAD + b"\r\n")
        assert (await rest_of(stream, 3)).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("ending", [b"", b"\r\n\r\n"])
async def test_a_head_that_is_too_large(tmp_path: Path, ending: bytes) -> None:
    """Whether it ever ends or not."""
    async with small_server(tmp_path, head_bytes=2000) as server, await connected(server) as stream:
        await stream.send(HEAD + b"X-Long: " + b"x" * 3000 + ending)
        assert b"431 " in await (stream.receive() if ending else rest_of(stream))
        assert not server.rest.seen


async def test_a_body_that_does_not_come(tmp_path: Path) -> None:
    """Is told as a problem, and frees its place."""
    async with small_server(tmp_path, body_s=0.3, concurrency=1) as server:
        for framing in (b"Content-Length: 10\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
            async with await connected(server) as stream:
                await stream.send(POST + framing)
                answer = await rest_of(stream)
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert b"application/problem+json" in answer
                assert b"connection: close" in answer
        assert not server.rest.seen
        assert (await server.get()).status_code == 200


async def test_a_client_that_takes_nothing_of_its_answer(tmp_path: Path) -> None:
    """Is given up, and the app gets to know."""
    async with small_server(tmp_path, stalled_s=0.3) as server, await connected(server) as stream:
        await stream.send(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with anyio.fail_after(5):
            await server.rest.gone.wait()


async def test_too_many_connections(tmp_path: Path) -> None:
    """The one too many is closed at once."""
    async with (
        small_server(tmp_path, connections=2) as server,
        await connected(server) as one,
        await connected(server) as two,
        await connected(server) as three,
    ):
        assert await rest_of(three, 1) == b""
        for stream in (one, two):
            await stream.send(HEAD + b"\r\n")
            assert b"200 OK" in await stream.receive()


async def test_half_closed_and_vanished_clients(tmp_path: Path) -> None:
    """Leave a server that answers."""
    async with small_server(tmp_path) as server:
        for content in (b"", HEAD, HEAD + b"\r\n", POST + b"Content-Length: 10\r\n\r\n{"):
            async with await connected(server) as stream:
                await stream.send(content or b"\r\n")
                await stream.send_eof()
                await rest_of(stream)
            stream = await connected(server)
            await stream.send(content or b"\r\n")
            stream.extra(SocketAttribute.raw_socket).setsockopt(*RESET)  # noqa: S610 - no Django here
            await stream.aclose()
        assert (await server.get()).status_code == 200


async def test_random_bytes(tmp_path: Path) -> None:
    """On either listener: an answer or a closed connection, and never an error of the server."""
    chance = random.Random(7)  # noqa: S311 - the same in each run
    starts = [
        b"",
        HEAD,
        POST,
        b"GET ",
        HEAD + b"Content-Length: ",
        HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    ]
    async with small_server(tmp_path, head_s=0.2, body_s=0.2) as server:
        for number in range(60):
            port = server.port if number % 2 else int(server.proxy_url.rpartition(":")[2])
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(chance.choice(starts) + chance.randbytes(chance.randrange(1, 200)) + b"\r\n\r\n")
                await stream.send_eof()
                answer = await rest_of(stream)
                assert answer == b"" or 200 <= int(answer.split()[1]) < 500, answer
        assert (await server.get()).status_code == 200


async def test_an_app_without_a_lifespan_is_left_alone() -> None:
    """One that cannot start is an error, though."""

    async def knows_none(scope: Any, _receive: Any, _send: Any) -> None:
        raise NotImplementedError(scope["type"])

    async def fails(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no disk"})

    async def breaks(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        raise OSError("no room")

    async with lifespan(knows_none):
        pass
    with pytest.raises(OSError, match="no room"):
        async with lifespan(breaks):
            pytest.fail("an app that broke was taken for started")
    with pytest.raises(RuntimeError, match="no disk"):
        async with lifespan(fails):
            pass


async def test_an_app_that_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    """Not before; by one of several who ask at once; and it starts and ends as others do."""
    made: list[Small] = []

    def make() -> Small:
        made.append(Small("mcp"))
        return made[-1]

    async with small_server(tmp_path, mcp=Later("json", make)) as server:
        await server.get()
        assert not made
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await server.get("/mcp"))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
        assert [answer.json()["app"] for answer in answers] == ["mcp"] * 3
        assert [app.lifespan for app in made] == [["startup"]]
    assert made[0].lifespan == ["startup", "shutdown"]
    async with small_server(tmp_path, mcp=Later("json", make)):
        pass
    assert len(made) == 1


async def test_an_app_that_cannot_be_made(tmp_path: Path) -> None:
    """Leaves the others alone, and is said at the latest at the end."""

    async def ask() -> None:
        async with small_server(tmp_path, mcp=Later("no_such_module_anywhere", Small)) as server:
            assert (await server.get("/mcp")).status_code == 500
            assert (await server.get()).status_code == 200

    with pytest.raises(BaseExceptionGroup, match="unhandled") as caught:
        await ask()
    assert isinstance(caught.value.exceptions[0], ModuleNotFoundError)


PROGRAM = """
import os, sys
import anyio
from ollama_async_mem.cli.main import run
from ollama_async_mem.server import serve
from server.small import Small

async def app(scope, receive, send, small=Small()):
    await small(scope, receive, send)
    if scope["type"] == "lifespan" and "HANGS" in os.environ:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(60)

serve.parts_of = lambda memory, settings, stopping: serve.Parts(rest=app if settings.rest else None)
sys.exit(run(["serve", *sys.argv[1:]]))
"""


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[tuple[anyio.abc.Process, str]]:
    """The command in a process of its own, and the line that says that it is ready."""
    line = [sys.executable, "-c", PROGRAM, "--port", "0", "--no-mcp", "--no-proxy", *arguments]
    environment = {**os.environ, "PYTHONPATH": "tests", "COLUMNS": "200"}
    async with await anyio.open_process(line, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stderr
        said = b""
        with anyio.fail_after(20):
            while b"\n" not in said:
                said += await process.stderr.receive()
        try:
            yield process, said.decode()
        finally:
            if process.returncode is None:
                process.kill()


def url_in(line: str) -> str:
    """The address in the line that says what is ready."""
    return next(word.rstrip(",;") for word in line.split() if word.startswith("http://"))


async def test_the_command_says_when_it_is_ready_and_ends_in_order(server: ScriptedOllama) -> None:
    """One line; SIGTERM ends it with success, and its store is closed."""
    async with command("--ollama", server.url) as (process, line):
        assert line.startswith("ready: REST at http://127.0.0.1:")
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url_in(line)}/x")).status_code == 200
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(10):
            assert await process.wait() == 0


async def test_the_command_writes_the_audit_and_reads_the_environment(
    server: ScriptedOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for the one change, and no page where a variable leaves it out."""
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_SERVER_PAGE", "false")
    log = tmp_path / "audit.jsonl"
    async with command("--ollama", server.url, "--audit-log", str(log)) as (process, line):
        assert "page" not in line
        async with httpx.AsyncClient() as http:
            await http.post(f"{url_in(line)}/changed", json={"text": "my secret"})
        process.send_signal(signal.SIGTERM)
        await process.wait()
    (written,) = (await anyio.Path(log).read_text()).splitlines()
    told = json.loads(written)
    assert (told["key"], told["route"], told["ids"], told["status"]) == ("local", "/changed", ["m1"], 200)
    assert "secret" not in written


async def test_it_starts_without_an_ollama() -> None:
    """Which may come later."""
    async with command("--ollama", "http://127.0.0.1:9") as (process, line):
        assert line.startswith("ready:")
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(10):
            assert await process.wait() == 0


async def test_a_second_ctrl_c_leaves_at_once(server: ScriptedOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a part does not end, and cannot even be cancelled."""
    monkeypatch.setenv("HANGS", "1")
    async with command("--ollama", server.url) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.stderr
        said = b""
        while b"ending" not in said:
            said += await process.stderr.receive()
        with anyio.move_on_after(0.5) as waited:
            await process.wait()
        assert waited.cancelled_caught
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(2):
            assert await process.wait() == 130


async def test_two_servers_on_one_store(server: ScriptedOllama) -> None:
    """On ports of their own."""
    async with (
        command("--ollama", server.url) as (_, one),
        command("--ollama", server.url) as (_, two),
        httpx.AsyncClient() as http,
    ):
        for line in (one, two):
            assert (await http.get(f"{url_in(line)}/x")).status_code == 200
