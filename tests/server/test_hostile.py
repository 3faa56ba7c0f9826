"""Attacks and careless hands against a server on real sockets: bytes, heads, paths, names, keys and their file."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from fakes import LAST_CHUNK, Hold, Raw, chunk, head

from ollama_async_mem import Memory
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.server import keys
from ollama_async_mem.server.audit import AUDIT_LOGGER
from ollama_async_mem.server.keys import KeyFile
from ollama_async_mem.server.rest import rest_app

from .proxying import CHUNKED, proxied
from .running import client_of, held
from .small import off_loop, small_server

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anyio.abc import SocketStream
    from fakes import ScriptedOllama
    from pytest import LogCaptureFixture, MonkeyPatch  # noqa: PT013

HEAD = b"GET /x HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def bearer(key: str) -> dict[str, str]:
    """The headers of a program with a key."""
    return {"authorization": f"Bearer {key}"}


async def connected(url: str) -> SocketStream:
    """A connection to a listener."""
    return await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0)


async def rest_of(stream: SocketStream, limit_s: float = 5.0) -> bytes:
    """All that a server sends until it closes the connection."""
    received = b""
    with anyio.fail_after(limit_s):
        try:
            while True:
                received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return received


async def said_to(url: str, content: bytes) -> bytes:
    """What a listener says to bytes, until it closes the connection or waits for more."""
    received = b""
    with anyio.fail_after(5):
        async with await connected(url) as stream:
            await stream.send(content)
            received += await stream.receive()
            with anyio.move_on_after(0.05), contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    received += await stream.receive()
    return received


async def all_said_to(url: str, contents: Iterable[bytes]) -> dict[bytes, bytes]:
    """What it says to each, on connections of their own."""
    answers: dict[bytes, bytes] = {}

    async def ask(content: bytes) -> None:
        answers[content] = await said_to(url, content)

    async with anyio.create_task_group() as tasks:
        for content in contents:
            tasks.start_soon(ask, content)
    return answers


def statuses(answer: bytes) -> list[int]:
    """Of all answers on a connection."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


TWO_WAYS = [
    b"Content-Length: 0\r\nContent-Length: 46\r\n\r\n" + SMUGGLED,
    b"Content-Length: 0, 46\r\n\r\n" + SMUGGLED,
    b"Content-Length: +46\r\n\r\n" + SMUGGLED,
    b"Content-Length: 99999999999999999999999\r\n\r\n" + SMUGGLED,
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"X: a\x00b\r\n\r\n" + SMUGGLED,
    b"X\x00: b\r\n\r\n" + SMUGGLED,
    b"X: a\rb\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n" + SMUGGLED,
]


async def test_heads_that_can_be_read_in_two_ways(tmp_path: Path) -> None:
    """Are refused on either listener, and what stands behind them is never taken for a request."""
    async with small_server(tmp_path, body_s=0.3) as server:
        for url in (server.url, server.proxy_url):
            for head, answer in (await all_said_to(url, [POST + head for head in TWO_WAYS])).items():
                assert statuses(answer)[-1] in {400, 408}, (head, answer)
        assert not [told for told in server.rest.seen + server.proxy.seen if told["path"] == "/smuggled"]


CLOSED_TARGETS = [
    "//healthz",
    "/healthz/",
    "/./healthz",
    "/x/../healthz",
    "/healthz/../x",
    "/healthz%2f..%2fx",
    "/healthz%00",
    "/healthz;x",
    "/healthz%3f",
    "/HEALTHZ",
    "/%2e/healthz",
    "healthz",
    "\\healthz",
    "*",
    "localhost:1",
    "http://localhost/x",
    "http://evil.example.org/x",
    "/mem/healthz/x",
    "/mem%2fhealthz/x",
    "/mem/mem/healthz",
]


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT", "OPTIONS", "PRI"])
async def test_no_other_path_is_open(tmp_path: Path, method: str) -> None:
    """Whatever a target looks like, without a key no app sees it."""
    asks = [f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for target in CLOSED_TARGETS]
    async with small_server(tmp_path, keys=1, base_path="/mem") as server:
        for ask, answer in (await all_said_to(server.url, asks)).items():
            assert statuses(answer) in ([400], [401]), (ask, answer)
        assert not server.rest.seen


FOREIGN_HEADS = [
    "Host: localhost\r\nHost: evil.example.org",
    "Host: evil.example.org\r\nHost: localhost",
    "X: y",
    "Host:",
    "Host: user@localhost",
    "Host: localhost:x",
    "Host: localhost:99999",
    "Host: [::1",
    "Host: 127.1",
    "Host: localhost, evil.example.org",
    "Host: 0x7f000001",
    "Host: localhost\tx",
    "Host: evil.example.org\r\nX-Forwarded-Host: localhost",
    "Host: localhost\xff",
    "Host: ..",
    "Host: .",
    "Host: [::ffff:10.0.0.1]",
    "Host: evillocalhost",
    "Host: 127.0.0.1.evil.org",
]


@pytest.mark.parametrize("path", ["/x", "/healthz"])
async def test_names_that_are_not_ours(tmp_path: Path, path: str) -> None:
    """None of them is let in, not even to what is open."""
    asks = [f"GET {path} HTTP/1.1\r\n{head}\r\n\r\n".encode("latin-1") for head in FOREIGN_HEADS]
    async with small_server(tmp_path) as server:
        for ask, answer in (await all_said_to(server.url, asks)).items():
            assert statuses(answer) in ([400], [421]), (ask, answer)
        assert not server.rest.seen


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_on_another_port_of_this_machine(tmp_path: Path, site: str) -> None:
    """Is foreign as any other: it cannot make the server work, not even where it sends no Origin."""
    async with small_server(tmp_path) as server:
        assert (await server.get(sec_fetch_site=site, sec_fetch_mode="no-cors")).status_code == 403
        assert (await server.get(sec_fetch_site="none", sec_fetch_mode="navigate")).status_code == 200


@pytest.mark.parametrize(
    "value",
    ["Basic \xe9", "Basic", "Basic =", "Basic YQ", "Basic Og==", "Bearer", "Bearer \xff\xfe", "Negotiate x", ""],
)
async def test_authorization_that_is_none(tmp_path: Path, value: str) -> None:
    """Is a missing or wrong key, and no error of the server."""
    async with small_server(tmp_path, keys=1) as server:
        head = f"GET /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: {value}\r\n\r\n"
        assert statuses(await said_to(server.url, head.encode("latin-1"))) == [401]


async def test_a_request_that_offers_another_protocol(tmp_path: Path) -> None:
    """Keeps its body: clients of Java offer HTTP/2 with the first one. And that is never taken for a request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: %d\r\n" % len(SMUGGLED)
    async with small_server(tmp_path) as server:
        for url in (server.url, server.proxy_url):
            assert statuses(await said_to(url, POST + offer + b"\r\n" + SMUGGLED + HEAD + b"\r\n")) == [200, 200]
            async with await connected(url) as stream:
                await stream.send(POST + offer + b"Upgrade: x\r\n\r\n")
                assert statuses(await rest_of(stream)) == [400]
        seen = [(told["path"], told["size"]) for told in server.rest.seen + server.proxy.seen]
        assert seen == [("/x", len(SMUGGLED)), ("/x", 0)] * 2


async def flooded(stream: SocketStream) -> None:
    """Send what never ends, until the server has had enough of it."""
    for _ in range(100):
        await stream.send(b"x" * 100_000)
        await anyio.sleep(0.005)


async def test_a_head_behind_a_request_that_is_under_way(tmp_path: Path) -> None:
    """Is limited as any other: it would be held in memory as long as the answer lasts."""
    async with small_server(tmp_path) as server, await connected(server.url) as stream:
        await stream.send(HEAD.replace(b"/x", b"/hold") + b"\r\n")
        await server.rest.held.wait()
        await stream.send(HEAD + b"X-Long: ")
        with pytest.raises(anyio.BrokenResourceError):
            await flooded(stream)
        with anyio.fail_after(5):
            server.rest.go.set()
            await server.rest.gone.wait()
        assert b"431 " not in await rest_of(stream)


@pytest.mark.parametrize("flood", [b"0\r\nX: ", b"1;x="])
async def test_what_is_neither_head_nor_body(tmp_path: Path, flood: bytes) -> None:
    """Trailers and extensions of chunks have an end too."""
    async with small_server(tmp_path) as server, await connected(server.url) as stream:
        await stream.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + flood)
        with pytest.raises(anyio.BrokenResourceError):
            await flooded(stream)
        assert (await server.get()).status_code == 200


async def test_a_trailer_is_no_header(tmp_path: Path) -> None:
    """It comes after the checks, and so does not count."""
    async with small_server(tmp_path) as server:
        body = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Memory-User: bob\r\nHost: evil.example.org\r\n\r\n"
        assert b"200 OK" in await said_to(server.url, POST + body)
        assert server.rest.seen[0]["headers"] == ["host", "content-type", "transfer-encoding"]


async def test_a_key_on_the_path_stays_here(tmp_path: Path) -> None:
    """Also where letters of it are written as %xx, and whatever stands behind it."""
    async with small_server(tmp_path) as server:
        key = await server.key()
        for written in (key, key.replace("_", "%5F"), key.replace("o", "%6f", 1)):
            for path in ("/api/tags", "//api/tags", "/api%2ftags", ""):
                answer = await server.http.get(f"{server.proxy_url}/{written}{path}")
                assert answer.status_code == 200, (written, path)
        assert {told["path"] for told in server.proxy.seen} == {"/api/tags", "//api/tags", "/"}
        assert all(key not in told["raw_path"] and "%5F" not in told["raw_path"] for told in server.proxy.seen)


async def test_a_key_in_the_wrong_place_is_in_no_log(tmp_path: Path, caplog: LogCaptureFixture) -> None:
    """On the path of the main listener, or in a query; nor does a long path fill the disk."""
    caplog.set_level(logging.DEBUG)
    async with small_server(tmp_path) as server:
        key = await server.key()
        for path in (f"/{key}/api/v1/memories", f"/x?key={key}", "/" + "y" * 50_000):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            answer = await said_to(server.url, head.encode())
            assert statuses(answer) == [401]
            assert key.encode() not in answer
    assert key not in caplog.text
    lines = [record.getMessage() for record in caplog.records if record.name == AUDIT_LOGGER]
    assert len(lines) == 3
    assert all(len(line) < 1000 and key[len("oam_00000000_") :] not in line for line in lines)
    assert json.loads(lines[0])["route"] == "/oam_.../api/v1/memories"


async def test_a_key_that_is_revoked_ends_its_streams(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """With the next piece, which is not sent any more; other keys go on."""
    monkeypatch.setattr(keys, "_FRESH_S", 0.0)
    async with small_server(tmp_path) as server:
        key = await server.key()
        async with server.http.stream("GET", f"{server.url}/hold", headers=bearer(key)) as answer:
            await server.rest.held.wait()
            await off_loop(server.keys.revoke, key.split("_")[1])
            server.rest.go.set()
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()
        assert (await server.get(**bearer(await server.key("other")))).status_code == 200


async def test_a_stream_from_before_there_were_keys_ends(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Once there is one."""
    monkeypatch.setattr(keys, "_FRESH_S", 0.0)
    async with small_server(tmp_path) as server, server.http.stream("GET", f"{server.url}/hold") as answer:
        await server.rest.held.wait()
        await server.key()
        server.rest.go.set()
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()


async def test_a_key_that_is_revoked_ends_its_streams_from_ollama(
    server: ScriptedOllama, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """Though their pieces take a short way."""
    monkeypatch.setattr(keys, "_FRESH_S", 0.05)
    hold, end = Hold(), Hold()
    server.enqueue("GET /api/tags", Raw([head(200, CHUNKED), chunk(b"one"), hold, chunk(b"two"), end, LAST_CHUNK]))
    async with (
        proxied(server, tmp_path, {"phone": {}}) as proxy,
        proxy.http.stream("GET", f"{proxy.url}/api/tags", headers=proxy.show("phone")) as answer,
    ):
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"one"
        await off_loop(proxy.keys.revoke, proxy.secrets["phone"].split("_")[1])
        await anyio.sleep(0.05)  # for so long a look at the file counts
        hold.release()
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)
        end.release()


async def damage(file: KeyFile, how: str) -> None:
    """What an operator or an attacker may do to the file of keys."""
    path = anyio.Path(file.path)
    if how == "gone":
        await path.unlink()
    elif how == "writable":
        await path.chmod(0o666)
    elif how == "folder":
        await path.unlink()
        await path.mkdir()
    elif how == "loop":
        await path.unlink(missing_ok=True)
        await path.symlink_to(path)
    else:
        await path.write_text(how)


WRECKS = ["gone", "writable", "folder", "loop", "", "null", "[]", "{", '{"keys": [{}]}', '{"version": 2, "more": 1}']


@pytest.mark.parametrize("how", WRECKS)
async def test_no_key_is_good_while_the_file_is_damaged(tmp_path: Path, monkeypatch: MonkeyPatch, how: str) -> None:
    """Nobody comes in, with or without a key, until it is mended."""
    monkeypatch.setattr(keys, "_FRESH_S", 0.0)
    async with small_server(tmp_path, keys=1) as server:
        key = await server.key()
        assert (await server.get(**bearer(key))).status_code == 200
        await damage(server.keys, how)
        for headers in ({}, bearer(key)):
            answer = await server.get(**headers)
            assert answer.status_code == 401
            assert str(tmp_path) not in answer.text


@pytest.mark.parametrize("how", WRECKS[1:])
async def test_a_file_that_cannot_be_read_is_no_open_door(tmp_path: Path, monkeypatch: MonkeyPatch, how: str) -> None:
    """Where there were no keys before either: somebody meant to make some."""
    if how in {"writable", "folder"}:
        await anyio.Path(tmp_path / "keys.json").write_text("{}")
    monkeypatch.setattr(keys, "_FRESH_S", 0.0)
    async with small_server(tmp_path) as server:
        assert (await server.get()).status_code == 200
        await damage(server.keys, how)
        assert (await server.get()).status_code == 401


async def test_a_link_to_the_file_of_keys(tmp_path: Path) -> None:
    """A key that is revoked by way of the link is revoked where others read the file itself."""
    file, link = KeyFile(tmp_path / "a" / "keys.json"), KeyFile(tmp_path / "link.json")
    key, _ = await off_loop(file.create, "phone")
    await anyio.Path(link.path).symlink_to(file.path)
    await off_loop(link.revoke, key.id)
    (seen,) = await off_loop(file.read)
    assert seen.revoked_at is not None
    assert await anyio.Path(link.path).is_symlink()


@pytest.mark.parametrize("bound", [{"user_id": ""}, {"agent_id": ""}])
def test_a_variable_that_is_not_set_binds_to_nobody(tmp_path: Path, bound: dict[str, Any]) -> None:
    """So no key is made."""
    with pytest.raises(ConfigError, match="without a name"):
        KeyFile(tmp_path / "keys.json").create("phone", **bound)


def test_a_bound_that_is_not_known_is_not_overlooked(tmp_path: Path) -> None:
    """One that a newer version wrote, or a typing error, would leave the key unbound."""
    file = KeyFile(tmp_path / "keys.json")
    file.create("phone", user_id="alice")
    file.path.write_text(file.path.read_text().replace("user_id", "usr_id"))
    with pytest.raises(ConfigError, match="usr_id"):
        file.read()


def test_an_admin_who_may_only_read(tmp_path: Path) -> None:
    """Is none."""
    with pytest.raises(ConfigError, match="--read-only"):
        KeyFile(tmp_path / "keys.json").create("phone", admin=True, may_write=False)


def test_strangers_cannot_use_up_the_files_of_the_process() -> None:
    """Half of what the system allows is left for the store and Ollama; it is asked for more first."""
    program = (
        "import resource as r, sys; from ollama_async_mem.server.listening import room_for;"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, int(sys.argv[1]))); print(room_for(100), r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    for hard, told in ((80, "40 80"), (500, "100 200")):
        line = [sys.executable, "-c", program, str(hard)]
        assert subprocess.run(line, check=True, capture_output=True, text=True).stdout.split() == told.split()  # noqa: S603 - ours


async def test_both_kinds_of_addresses_on_one_socket(tmp_path: Path) -> None:
    """One of IPv4 is told as such: limits, audit and trusted proxies know it by that name."""
    trusted: dict[str, Any] = {"trusted_proxy": ("127.0.0.1",), "host": "::"}
    async with small_server(tmp_path, keys=1, **trusted) as server:
        key, url = await server.key(), f"http://127.0.0.1:{server.port}/x"
        headers = {"x-api-key": key, "x-forwarded-for": "9.9.9.9"}
        await server.http.get(url)
        assert (await server.http.get(url, headers=headers)).json()["client"] == "9.9.9.9"
        assert (await server.http.get(url, headers={"x-api-key": key})).json()["client"] == "127.0.0.1"


async def test_addresses_that_only_proxies_may_tell(tmp_path: Path) -> None:
    """Who is not trusted cannot choose the address that is limited and logged."""
    async with small_server(tmp_path, keys=1, failures_per_minute=2) as server:
        told = [
            (await server.get(x_api_key="oam_x", x_forwarded_for=f"9.9.9.{number}")).status_code for number in range(4)
        ]
        assert told == [401, 401, 429, 429]


@pytest.mark.parametrize("header", ["via", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded"])
async def test_what_proxies_add_is_noticed(tmp_path: Path, header: str) -> None:
    """Without keys, whoever comes through one is nobody's owner."""
    async with small_server(tmp_path) as server:
        assert (await server.get(**{header: "x"})).status_code == 403


async def test_two_servers_write_to_one_store(server: ScriptedOllama, tmp_path: Path) -> None:
    """At the same time, and search meanwhile: nothing is lost, and each sees what the other wrote."""
    path, count = tmp_path / "memory.db", 20
    async with (
        held(Memory(path, host=server.url, extract_here=False)) as one,
        held(Memory(path, host=server.url, extract_here=False)) as other,
        client_of(rest_app(one)) as left,
        client_of(rest_app(other)) as right,
    ):

        async def write(http: httpx.AsyncClient, number: int) -> None:
            body = {"messages": f"tea number {number}", "user_id": "alice", "infer": False}
            assert (await http.post("/api/v1/memories", json=body)).status_code == 201
            found = await http.get("/api/v1/search", params={"query": f"number {number}", "user_id": "alice"})
            assert found.status_code == 200

        async with anyio.create_task_group() as writing:
            for number in range(count):
                writing.start_soon(write, left, number)
                writing.start_soon(write, right, number + count)
        for http in (left, right):
            assert (await http.get("/api/v1/counts", params={"user_id": "alice"})).json()["turns"] == 2 * count
