"""TLS of the user: whom a client's certificate is shown to, and how often what TLS needs is made."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
from fakes import Reply, ScriptedOllama

from ollama_async_mem import OllamaClient
from ollama_async_mem.errors import StatusError
from ollama_async_mem.ollama._connection import Address, Limits
from ollama_async_mem.ollama._pool import Pool

from .backends import ONCE, on_both, tls_server, together, trusting

if TYPE_CHECKING:
    import ssl

    import trustme


@on_both
async def test_a_certificate_of_the_client_is_shown_to_no_other_server(
    fake: ScriptedOllama, authority: trustme.CA
) -> None:
    """Where an ssl.SSLContext is given, a redirect over TLS to another origin is an error, and no connection."""
    context = trusting(authority)
    authority.issue_cert("me.test").configure_cert(context)
    async with tls_server(authority) as home, tls_server(authority) as other:
        for server in (fake, home):
            server.enqueue("GET /api/version", Reply(307, headers={"Location": f"{other.url}/api/version"}))
            async with OllamaClient(server.url, verify=context, retry=ONCE) as client:
                with pytest.raises(StatusError, match="is not followed: verify="):
                    await client.version()
        home.enqueue("GET /api/version", Reply(307, headers={"Location": f"{home.url}/two"}))
        home.enqueue("GET /two", Reply(json={"version": "2"}))
        async with OllamaClient(home.url, verify=context) as client:
            assert await client.version() == "2"
        assert other.connections_total == 0


@on_both
async def test_what_tls_needs_is_made_once(authority: trustme.CA) -> None:
    """Also where many connections are opened at the same time."""
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(trusting(authority))
        return made[-1]

    async with tls_server(authority) as fake:
        pool = Pool(Address(fake.url, "127.0.0.1", fake.port, tls=make))
        request = b"GET /api/version HTTP/1.1\r\nhost: x\r\n\r\n"
        await together(*[functools.partial(pool.exchange, "GET", request, b"", Limits())] * 10)
        await pool.aclose()
    assert len(made) == 1
