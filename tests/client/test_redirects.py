"""Redirects, credentials and httpx in place of our own HTTP."""

from __future__ import annotations

import logging

import anyio
import httpx
import pytest
from fakes import Reply, ScriptedOllama, refusing_port

from ollama_async_mem import OllamaClient, Timeouts
from ollama_async_mem.errors import (
    ConfigError,
    OllamaError,
    StatusError,
)
from ollama_async_mem.ollama._http import redirect_target

from .backends import ONCE, on_both, pool_of


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
        (301, "/x", "would turn a POST into a GET"),
        (302, "/x", "would turn a POST into a GET"),
        (303, "/x", "would turn a POST into a GET"),
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
