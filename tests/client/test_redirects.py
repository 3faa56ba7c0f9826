"""Redirects, credentials and httpx in place of our own HTTP."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from fakes import Reply, ScriptedOllama, refusing_port

from ollama_async_mem import OllamaClient, Timeouts
from ollama_async_mem.errors import (
    ConfigError,
    ConnectFailed,
    OllamaError,
    StatusError,
    StreamTruncated,
)
from ollama_async_mem.ollama._http import redirect_target

from .backends import ONCE, on_both, pool_of, read, together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@on_both
async def test_a_redirect_keeps_method_and_body(fake: ScriptedOllama) -> None:
    """307 and 308 lead on, within the origin with credentials."""
    fake.enqueue("POST /api/show", Reply(307, headers={"Location": "/two?x=1"}))
    fake.enqueue("POST /two", Reply(308, headers={"Location": f"{fake.url}/three"}))
    fake.enqueue("POST /three", Reply(json={"capabilities": ["completion"]}))
    async with OllamaClient(fake.url, api_key="secret") as client:
        assert (await client.show("m")).capabilities == ["completion"]
    assert [request.json["model"] for request in fake.requests] == ["m"] * 3
    assert [request.headers["authorization"] for request in fake.requests] == ["Bearer secret"] * 3
    assert fake.connections_total == 1


@on_both
async def test_a_redirect_to_another_origin_gets_no_credentials(fake: ScriptedOllama) -> None:
    """Neither keys nor passwords nor headers of the user."""
    with ScriptedOllama() as other:
        fake.enqueue("GET /api/version", Reply(307, headers={"Location": f"{other.url}/api/version"}), repeat=True)
        for address, key in ((fake.url, "secret"), (fake.url.replace("//", "//me:secret@"), None)):
            async with OllamaClient(address, api_key=key, headers={"x-key": "secret"}) as client:
                assert await client.version()
        assert "secret" not in str(other.requests)
        assert "user-agent" in other.requests[0].headers


@pytest.mark.parametrize(
    ("status", "location", "words"),
    [
        (307, "/api/version", "more than 5 times"),
        (301, "/x", "only the statuses 307 and 308"),
        (302, "/x", "only the statuses 307 and 308"),
        (303, "/x", "only the statuses 307 and 308"),
        (307, "", "not followed"),
        (308, "gopher://x/", "no address"),
        (308, "http://[", "no address"),
        (308, "http://x:99999/", "no address"),
    ],
)
@on_both
async def test_redirects_that_are_not_followed(fake: ScriptedOllama, status: int, location: str, words: str) -> None:
    """A StatusError that says so."""
    fake.enqueue("GET /api/version", Reply(status, headers={"Location": location}), repeat=True)
    async with OllamaClient(fake.url, retry=ONCE) as client:
        with pytest.raises(StatusError, match=words) as caught:
            await client.version()
        assert pool_of(client).connections == (0, 1)
    assert caught.value.status == status
    assert len(fake.requests) == (6 if "5 times" in words else 1)


@pytest.mark.parametrize("status", [301, 302, 303, 308])
@on_both
async def test_a_redirect_that_is_not_followed_says_where_to(fake: ScriptedOllama, status: int) -> None:
    """Without the name and the password in the address."""
    location = "gopher://me:secret@elsewhere.test/api"
    fake.enqueue("GET /api/version", Reply(status, headers={"Location": location}))
    async with OllamaClient(fake.url, retry=ONCE) as client:
        with pytest.raises(StatusError, match=r"redirects to 'gopher://elsewhere\.test/api'") as caught:
            await client.version()
    assert "secret" not in str(caught.value)


def test_credentials_over_plain_http_are_warned_of(fake: ScriptedOllama, caplog: pytest.LogCaptureFixture) -> None:
    """Once for a client, without the credentials, and not on loopback."""

    async def use(address: str, times: int) -> None:
        async with OllamaClient(address, api_key="secret", timeouts=Timeouts(connect_s=0.05), retry=ONCE) as client:
            for _ in range(times):
                with pytest.raises(OllamaError):
                    await client.version()

    with caplog.at_level(logging.WARNING), refusing_port() as port:
        anyio.run(use, f"http://127.0.0.1:{port}", 1)
        assert not caplog.messages
        anyio.run(use, "http://no-such-host.invalid", 3)
    assert len(caplog.messages) == 1
    assert "plain http" in caplog.text
    assert "secret" not in caplog.text


async def test_a_broken_proxy_setting_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an exception of httpx."""
    monkeypatch.setenv("ALL_PROXY", "nonsense://x")
    async with OllamaClient("http://host.test") as client:
        with pytest.raises(ConfigError, match="proxy"):
            await client.version()


async def test_httpx_authentication_runs_over_our_connections(fake: ScriptedOllama) -> None:
    """`auth=` of httpx costs the native link, not the connections."""
    fake.enqueue(
        "GET /api/version", Reply(401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})
    )
    async with OllamaClient(fake.url, auth=httpx.DigestAuth("me", "secret")) as client:
        assert await client.version()
    assert fake.requests[1].headers["authorization"].startswith("Digest")
    assert fake.connections_total == 1


@pytest.mark.parametrize("location", ["http://server:443/x", "http://server/x", "http://elsewhere/x"])
def test_tls_is_not_given_up(location: str) -> None:
    """What was meant for an encrypted connection is not sent over one that is not."""
    with pytest.raises(StatusError, match="not followed"):
        redirect_target("https://server:443", "/api/chat", location, 307)
    assert redirect_target("https://server:443", "/api/chat", "https://server/x", 307) == ("https://server:443", "/x")


@on_both
async def test_loopback_goes_through_no_proxy_of_the_environment(
    fake: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy cannot reach it."""
    with refusing_port() as port:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        for auth in (None, httpx.DigestAuth("me", "x")):
            async with OllamaClient(fake.url, retry=ONCE, auth=auth) as client:
                assert await client.version()


@on_both
async def test_a_dead_proxy_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where NO_PROXY says that the proxy is not used."""
    limits = Timeouts(connect_s=0.5)
    with refusing_port() as port:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
        async with OllamaClient("http://host.invalid", retry=ONCE) as client:
            with pytest.raises(ConnectFailed, match=r"host.invalid.*through the environment's proxy"):
                await client.version()
        monkeypatch.setenv("NO_PROXY", "host.invalid")
        async with OllamaClient("http://host.invalid", retry=ONCE, timeouts=limits) as client:
            with pytest.raises(ConnectFailed) as caught:
                await client.version()
    assert "proxy" not in str(caught.value)


@on_both
async def test_first_requests_through_a_proxy_share_their_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many begin at once, closing the client closes all there are."""
    with ScriptedOllama() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        proxy.enqueue("GET http://host.test/api/version", Reply(json={"version": "1"}, delay_s=0.1), repeat=True)
        async with OllamaClient("http://host.test", max_connections=2) as client:
            await together(*[client.version] * 5)
            assert proxy.connections_total == 2
        await proxy.wait_closed_connections()


class Broken(httpx.AsyncBaseTransport, httpx.AsyncByteStream):
    """A transport that lets errors of the system through, before or within an answer."""

    def __init__(self, *, begins: bool) -> None:
        self._begins = begins

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self._begins:
            raise ConnectionRefusedError("nobody there")
        return httpx.Response(200, stream=self, request=request)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"message":{"content":"a"}}\n'
        raise ConnectionResetError("gone")


@pytest.mark.parametrize(
    ("begins", "kind", "says"), [(False, ConnectFailed, "nobody there"), (True, StreamTruncated, "gone")]
)
@on_both
async def test_errors_of_the_system_in_a_transport_of_the_user(
    begins: bool,  # noqa: FBT001 - a parameter of the test
    kind: type[OllamaError],
    says: str,
) -> None:
    """They are ours, with theirs as the cause."""
    async with OllamaClient("http://host.test", transport=Broken(begins=begins), retry=ONCE) as client:
        with pytest.raises(kind, match=says) as caught:
            await read(client)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.partial == ("a" if begins else "")
