"""Whom the client trusts, what it tells nobody, and whose exceptions it lets out: its own.

TLS with certificates on both sides, secrets, and the errors of the libraries below, on asyncio and on trio.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import socket
import ssl
import threading
import traceback
import zlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fakes import (
    LAST_CHUNK,
    STALL,
    Close,
    Pause,
    Raw,
    Reply,
    Reset,
    ScriptedOllama,
    chunk,
    head,
    line_chunk,
    refusing_port,
    stream_head,
)
from fakes.ports import bound_socket

from ollama_async_mem import OllamaClient, OllamaTransport
from ollama_async_mem.errors import (
    ConfigError,
    ConnectFailed,
    FirstByteTimeout,
    ModelOutputError,
    OllamaError,
    ProtocolError,
    StreamTruncated,
)

from .backends import HI, LINE, ONCE, VERSION, on_both, read, tls_server, trusting, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import trustme
    from fakes import Answer

# --- TLS ----------------------------------------------------------------------------------------------------------

LINKS: dict[str, dict[str, Any]] = {"our own": {}, "httpx": {"auth": httpx.DigestAuth("me", "x")}}


def server_side(authority: trustme.CA, *, wants_certificate: bool) -> ssl.SSLContext:
    """What a server needs for TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if wants_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    return context


@pytest.mark.parametrize("link", LINKS)
@on_both
async def test_a_client_with_a_certificate(authority: trustme.CA, link: str) -> None:
    """`verify=` with a certificate that the server trusts; for requests and streams."""
    verify = trusting(authority)
    authority.issue_cert("client@example.org").configure_cert(verify)
    context = server_side(authority, wants_certificate=True)
    async with ScriptedOllama(tls=context) as server, OllamaClient(server.url, verify=verify, **LINKS[link]) as client:
        assert await client.version()
        assert await read(client) == "You said: hello there"


@on_both
async def test_the_key_of_the_environment_is_for_https_alone(
    authority: trustme.CA, fake: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to ollama.com and the like; `api_key=` decides for itself."""
    monkeypatch.setenv("OLLAMA_API_KEY", SECRET)
    context, verify = server_side(authority, wants_certificate=False), trusting(authority)
    async with ScriptedOllama(tls=context) as server:
        for key, sent in ((None, f"Bearer {SECRET}"), ("mine", "Bearer mine")):
            async with OllamaClient(server.url, verify=verify, api_key=key) as client:
                await client.version()
            assert server.requests[-1].headers["authorization"] == sent
    async with OllamaClient(fake.url) as client:
        await client.version()
    assert "authorization" not in fake.requests[-1].headers


@pytest.mark.parametrize("way", ["basic", "httpx's basic", "url", "headers"])
@on_both
async def test_the_key_of_the_environment_is_for_those_without_credentials(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What the program itself says about who asks comes before what lies around in the environment."""
    monkeypatch.setenv("OLLAMA_API_KEY", "of the environment")
    async with tls_server(authority) as server, client_with(way, "default", server.url, trusting(authority)) as client:
        await client.version()
    assert server.requests[-1].headers["authorization"] == (SECRET if way == "headers" else f"Basic {IN_BASIC}")


@pytest.mark.parametrize("transport", ["default", "ours", "httpx's"])
@on_both
async def test_a_header_and_a_key_come_before_the_address(fake: ScriptedOllama, transport: str) -> None:
    """On every way the same: what is said by name counts more than what stands in the address."""
    for said in ({"headers": {"AUTHORIZATION": "Bearer k"}}, {"api_key": "k"}):
        address = fake.url.replace("//", "//me:pass@")
        async with OllamaClient(address, **said, **TRANSPORTS[transport]()) as client:
            await client.version()
        assert fake.requests[-1].headers["authorization"] == "Bearer k"


def test_two_ways_to_say_who_asks_exclude_each_other() -> None:
    """Which one is sent would be anyone's guess."""
    ways = [WAYS["key"], WAYS["basic"], {"headers": {"authorization": SECRET}}]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        with pytest.raises(ConfigError, match="exclude each other"):
            OllamaClient(**ways[one], **ways[other])


@contextlib.contextmanager
def blocking_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose connections are served one by one, with plain blocking sockets."""
    ended = threading.Event()

    def accept() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    serve(connection)

    with bound_socket() as listening:
        listening.settimeout(0.02)
        listening.listen()
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            thread.join(5)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("link", LINKS)
@on_both
async def test_a_client_without_the_certificate_that_is_wanted(
    authority: trustme.CA, link: str, version: ssl.TLSVersion
) -> None:
    """What the server's TLS complains of is told, also where it complains behind the handshake, as 1.3 does."""
    context = server_side(authority, wants_certificate=True)
    context.maximum_version = version
    asked = 0

    def refuse(connection: socket.socket) -> None:
        nonlocal asked
        asked += 1
        with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
            tls.settimeout(1)
            with contextlib.suppress(ssl.SSLError):
                tls.do_handshake()
            socket.socket.recv(tls, 65_536)  # else the complaint would be overtaken by a reset

    with blocking_server(refuse) as port:
        async with OllamaClient(f"https://127.0.0.1:{port}", verify=trusting(authority), **LINKS[link]) as client:
            with pytest.raises(ConnectFailed, match=r"wants a certificate of ours, .*ALERT") as caught:
                await client.version()
    assert not caught.value.retryable
    assert asked == 1
    assert ssl.SSLError in causes(caught.value)


def causes(exc: BaseException) -> list[type[BaseException]]:
    """The classes of all that led to an error."""
    found: list[type[BaseException]] = []
    cause = exc.__cause__
    while cause is not None:
        found += [kind for kind in type(cause).__mro__ if kind not in {object, BaseException, Exception}]
        cause = cause.__cause__
    return found


@pytest.mark.parametrize("link", LINKS)
@on_both
async def test_a_certificate_that_is_not_trusted_is_refused_on_every_way(authority: trustme.CA, link: str) -> None:
    """Of an unknown authority, and for another name: told once, with what to do, and not tried again."""
    for name, verify in (("127.0.0.1", True), ("other.test", trusting(authority))):
        async with tls_server(authority, name) as server:
            async with OllamaClient(server.url, verify=verify, **LINKS[link]) as client:
                with pytest.raises(
                    ConnectFailed, match=r"not trusted, .*\(verify= takes an ssl.SSLContext\)"
                ) as caught:
                    await client.version()
            assert ssl.SSLCertVerificationError in causes(caught.value)
            assert str(caught.value).count("cannot connect") == 1
            assert not server.requests


@on_both
async def test_certificates_need_not_be_checked(authority: trustme.CA) -> None:
    """`verify=False`."""
    async with tls_server(authority, "other.test") as server, OllamaClient(server.url, verify=False) as client:
        assert await client.version()


@pytest.mark.parametrize("link", LINKS)
@on_both
async def test_tls_to_a_server_that_does_not_speak_it(link: str) -> None:
    """What Go answers to a handshake on its plain port."""
    answer = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server."

    def plain(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(answer)

    with blocking_server(plain) as port:
        async with OllamaClient(f"https://127.0.0.1:{port}", **LINKS[link]) as client:
            with pytest.raises(ConnectFailed, match="does not speak TLS as we do") as caught:
                await client.version()
    assert ssl.SSLError in causes(caught.value)


@pytest.mark.parametrize("verify", [5, None, "/nowhere.pem"])
@pytest.mark.parametrize("link", LINKS)
@on_both
@pytest.mark.filterwarnings("ignore:`verify=<str>` is deprecated")
async def test_what_is_nothing_to_verify_with(link: str, verify: Any) -> None:
    """A setting that cannot be used is named."""
    async with OllamaClient("https://127.0.0.1:9", verify=verify, **LINKS[link]) as client:
        with pytest.raises(ConfigError, match="verify="):
            await client.version()


# --- secrets ------------------------------------------------------------------------------------------------------

SECRET = "s3cr3t"
IN_BASIC = base64.b64encode(f"me:{SECRET}".encode()).decode()
WAYS: dict[str, dict[str, Any]] = {
    "key": {"api_key": SECRET},
    "basic": {"auth": ("me", SECRET)},
    "httpx's basic": {"auth": httpx.BasicAuth("me", SECRET)},
    "httpx's digest": {"auth": httpx.DigestAuth("me", SECRET)},
    "headers": {"headers": {"Authorization": SECRET, "Cookie": SECRET, "X-Key": SECRET}},
    "url": {},
}
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading certificates for each would take most of the time
TRANSPORTS: dict[str, Callable[[], dict[str, Any]]] = {
    "default": dict,
    "ours": lambda: {"transport": OllamaTransport()},
    "httpx's": lambda: {"transport": httpx.AsyncHTTPTransport(verify=NO_TLS)},
}


def client_with(way: str, transport: str, url: str, verify: ssl.SSLContext | None = None) -> OllamaClient:
    """A client with a secret."""
    address = url.replace("//", f"//me:{SECRET}@") if way == "url" else url
    return OllamaClient(address, retry=ONCE, verify=verify or True, **WAYS[way], **TRANSPORTS[transport]())


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("way", WAYS)
@on_both
async def test_secrets_are_told_nobody(
    fake: ScriptedOllama, caplog: pytest.LogCaptureFixture, way: str, transport: str
) -> None:
    """Not in a repr, not in an error or one that led to it, not in any log, however talkative."""
    caplog.set_level(logging.NOTSET)
    answers: list[Answer] = [Reply(json={}), Reply(401, json={"error": "no"}), Reply(body="<html>"), Raw([Close()])]
    fake.enqueue("GET /api/version", *answers)
    told: list[str] = []
    with refusing_port() as port:
        for url in (*[fake.url] * len(answers), f"http://127.0.0.1:{port}"):
            async with client_with(way, transport, url) as client:
                with pytest.raises(OllamaError) as caught:
                    await client.version()
                told += traceback.format_exception(caught.value)
                told += [repr(client), client.url, repr(client._server.host), repr(client._server._links)]
    assert len(fake.requests) == len(answers)
    for text in [*told, caplog.text]:
        assert SECRET not in text
        assert IN_BASIC not in text


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("way", WAYS)
@on_both
async def test_secrets_stay_with_their_server(fake: ScriptedOllama, way: str, transport: str) -> None:
    """A redirect to another origin carries none of them; it is asked without."""
    with ScriptedOllama() as other:
        fake.enqueue("GET /api/version", Reply(307, headers={"Location": f"{other.url}/api/version"}))
        fake.enqueue("POST /api/chat", Reply(308, headers={"Location": f"{other.url}/api/chat"}))
        async with client_with(way, transport, fake.url) as client:
            assert await client.version()
            assert await read(client) == "You said: hello there"
        assert len(other.requests) == 2
        assert not {"authorization", "cookie", "x-key"} & {name for each in other.requests for name in each.headers}


@pytest.mark.parametrize(
    "settings",
    [
        {"host": f"http://me:{SECRET}@host:port"},
        {"host": f"gopher://me:{SECRET}@host"},
        {"headers": {"X-Key": f"{SECRET}\n"}},
        {"headers": {"X-Key": f"{SECRET}ü"}},
        {"headers": [("X-Key", SECRET)]},
        {"api_key": f"{SECRET}\n"},
        {"api_key": f"{SECRET}\N{KEY}"},
        {"api_key": f"{SECRET} {SECRET}"},
        {"api_key": [SECRET]},
        {"auth": SECRET},
        {"auth": ["me", SECRET]},
        {"auth": (SECRET,)},
        {"auth": (SECRET, None)},
        {"auth": ("me", f"{SECRET}\ud800")},
        {"auth": httpx.DigestAuth},
        {"transport": object()},
        {"transport": httpx.AsyncHTTPTransport},
    ],
)
def test_wrong_settings_are_named_without_their_secrets(settings: dict[str, Any]) -> None:
    """A refused setting does not stand in the error as it was given."""
    with pytest.raises(ConfigError) as caught:
        OllamaClient(**settings)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("proxy", [f"gopher://me:{SECRET}@x", f"http://me:{SECRET}@127.0.0.1:9"])
@on_both
async def test_the_password_of_a_proxy_is_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, proxy: str
) -> None:
    """Whether it cannot be used or cannot be reached."""
    caplog.set_level(logging.NOTSET)
    monkeypatch.setenv("ALL_PROXY", proxy)
    async with OllamaClient("http://host.test", retry=ONCE) as client:
        with pytest.raises((ConfigError, ConnectFailed)) as caught:
            await client.version()
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text


# --- errors of other libraries ------------------------------------------------------------------------------------

CHUNKED = stream_head()
FAULTS: dict[str, tuple[list[Any], type[OllamaError], type[BaseException]]] = {
    "closed unanswered": ([Close()], ConnectFailed, httpx.RemoteProtocolError),
    "reset unanswered": ([Reset()], ConnectFailed, httpx.ReadError),
    "not HTTP": ([b"nonsense\r\n\r\n"], ProtocolError, httpx.RemoteProtocolError),
    "a bad chunk": ([CHUNKED, b"zz\r\n"], ProtocolError, httpx.RemoteProtocolError),
    "closed in the middle": ([CHUNKED, chunk(b"{"), Close()], StreamTruncated, httpx.RemoteProtocolError),
    "too short": ([head(headers={"Content-Length": "9"}), b"{", Close()], StreamTruncated, httpx.RemoteProtocolError),
    "reset in the middle": ([CHUNKED, chunk(b"{"), Pause(0.02), Reset()], StreamTruncated, httpx.ReadError),
    "no JSON": ([CHUNKED, chunk(b"<html>"), LAST_CHUNK], ProtocolError, ValueError),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@on_both
async def test_errors_of_an_httpx_transport_become_ours(fake: ScriptedOllama, fault: str) -> None:
    """Of the class that our own connections would raise, with httpx's as the cause."""
    steps, error, cause = FAULTS[fault]
    fake.enqueue("GET /api/version", Raw(steps))
    async with OllamaClient(fake.url, retry=ONCE, transport=httpx.AsyncHTTPTransport(verify=NO_TLS)) as client:
        with pytest.raises(OllamaError) as caught:
            await client.version()
    assert type(caught.value) is error
    assert cause in causes(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
@on_both
async def test_our_transport_within_httpx_says_the_same(fake: ScriptedOllama, fault: str) -> None:
    """The errors of our own connections come through httpx as they are."""
    told: list[tuple[type[OllamaError], str]] = []
    fake.enqueue("GET /api/version", *[Raw(FAULTS[fault][0])] * 2)
    for transport in (None, OllamaTransport()):
        async with OllamaClient(fake.url, retry=ONCE, transport=transport) as client:
            with pytest.raises(OllamaError) as caught:
                await client.version()
            told.append((type(caught.value), str(caught.value)))
    assert told[0] == told[1]


@pytest.mark.parametrize("link", LINKS)
@on_both
async def test_a_stream_is_left_and_unpacked_alike(fake: ScriptedOllama, link: str) -> None:
    """On both ways to our own connections: nothing is left behind, and what is packed badly is told."""
    packed = stream_head(headers={"Content-Encoding": "gzip"})
    fake.enqueue("POST /api/chat", Raw([CHUNKED, line_chunk(LINE), STALL]), Raw([packed, chunk(b"x" * 99)]))
    async with OllamaClient(fake.url, retry=ONCE, **LINKS[link]) as client:
        async with client.stream_chat("m", HI) as stream:
            assert (await anext(stream)).message.content == "x"
        await until(lambda: fake.open_connections == 0)
        with pytest.raises(ProtocolError, match="not what its encoding says") as caught:
            await read(client)
    assert zlib.error in causes(caught.value)


@on_both
async def test_brackets_without_end_do_not_fit_a_format(fake: ScriptedOllama) -> None:
    """What a model may write when it is asked for JSON; its words are kept."""
    fake.settings.answer = lambda _: "[" * 10_000
    async with OllamaClient(fake.url) as client:
        with pytest.raises(ModelOutputError) as caught:
            await client.chat("m", HI, format="json")
    assert caught.value.output == "[" * 10_000


class Raising(httpx.AsyncBaseTransport):
    """A transport that fails in one way."""

    def __init__(self, exc: Exception) -> None:
        self._exc = exc

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise self._exc


TOLD = (httpx.RequestError, httpx.InvalidURL, httpx.StreamError)
RAISED = [kind for name in httpx.__all__ if isinstance(kind := getattr(httpx, name), type) and issubclass(kind, TOLD)]
LATE = {httpx.TimeoutException, httpx.ReadTimeout, httpx.WriteTimeout}
WORDLESS = {httpx.StreamConsumed, httpx.StreamClosed, httpx.ResponseNotRead, httpx.RequestNotRead}


@pytest.mark.parametrize("kind", RAISED)
@on_both
async def test_whatever_httpx_raises_becomes_ours(kind: type[Exception]) -> None:
    """All of its exceptions, with themselves as the cause."""
    exc = kind() if kind in WORDLESS else kind("words")
    async with OllamaClient("http://host.test", retry=ONCE, transport=Raising(exc)) as client:
        with pytest.raises(OllamaError) as caught:
            await client.version()
    assert caught.value.__cause__ is exc
    assert isinstance(caught.value, FirstByteTimeout) == (kind in LATE)


@on_both
async def test_a_good_answer_is_not_an_error(fake: ScriptedOllama) -> None:
    """On each of the ways."""
    fake.enqueue("GET /api/version", Reply(body=VERSION), repeat=True)
    for make in TRANSPORTS.values():
        async with OllamaClient(fake.url, **make()) as client:
            assert await client.version() == "1"
