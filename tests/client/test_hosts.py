"""Where a server is: the grammar of OLLAMA_HOST, and clients of unix sockets on asyncio and on trio."""

from __future__ import annotations

import string
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import httpx
import pytest
from fakes import Reply, ScriptedOllama
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_async_mem import OllamaClient
from ollama_async_mem.errors import ConfigError, ConnectFailed, ModelNotFound
from ollama_async_mem.ollama._exchange import LinkOptions
from ollama_async_mem.ollama._http11 import header_lines, request_line
from ollama_async_mem.ollama._links import NativeLink, make_link
from ollama_async_mem.ollama.hosts import Host, parse_host

from .backends import ONCE, cancelled_everywhere, on_both, pool_of, read

if TYPE_CHECKING:
    from pathlib import Path

LABELS = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=9)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join).filter(lambda name: name != "0.0.0.0")
PORTS = st.integers(1, 65535)
USERINFO = st.text(min_size=1, max_size=12)
ADDRESSES = st.ip_addresses(v=6).filter(lambda address: not address.is_unspecified)

# --- grammar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        (":8080", "http://127.0.0.1:8080"),
        ("example.com:56789", "http://example.com:56789"),
        ("my_ollama:80", "http://my_ollama:80"),
        ("unix:11434", "http://unix:11434"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        (" 'example.com' ", "http://example.com:11434"),
        (' " 1.2.3.4 " ', "http://1.2.3.4:11434"),
        ("http://example.com", "http://example.com:80"),
        ("HTTPS://Example.com", "https://Example.com:443"),
        ("http://", "http://127.0.0.1:80"),
        ("https://example.com:8443/ollama/", "https://example.com:8443/ollama"),
        ("box/two words/ü", "http://box:11434/two%20words/%C3%BC"),
        ("box/%41", "http://box:11434/%41"),
        ("ollama.com", "https://ollama.com:443"),
        ("OLLAMA.com/v", "https://OLLAMA.com:443/v"),
        ("http://ollama.com", "http://ollama.com:80"),
        ("bücher.example", "http://xn--bcher-kva.example:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("::", "http://[::1]:11434"),
        ("[::]:1234", "http://[::1]:1234"),
        ("0:0::0", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:80", "http://[::1]:80"),
        ("FE80::0001", "http://[fe80::1]:11434"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:11434"),
        ("[fe80::1%eb0]:99", "http://[fe80::1%25eb0]:99"),
        ("http://[fe80::1%25Eth0]:99/x", "http://[fe80::1%25Eth0]:99/x"),
        ("fe80::1%25", "http://[fe80::1%2525]:11434"),
        ("fe80::1%2", "http://[fe80::1%252]:11434"),
        ("unix:///run/ollama.sock", "unix:///run/ollama.sock"),
        ("unix:/run/ollama.sock", "unix:///run/ollama.sock"),
        ('"UNIX:///run/my%20ollama"', "unix:///run/my%20ollama"),
    ],
)
def test_hosts_are_read_as_the_server_reads_them(value: str | None, url: str) -> None:
    """OLLAMA_HOST means to the client what it means to the server."""
    assert parse_host(value).url == url


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("ftp://x", "'ftp' is not supported"),
        ("http+unix:///x", "'http\\+unix' is not supported"),
        ("x:port", "port"),
        ("x:0", "port"),
        ("x:70000", "port"),
        ("x:" + "9" * 5000, "port"),
        ("http://x:-1", "port"),
        ("x:１", "port"),  # noqa: RUF001 - a digit, and not one of ours
        ("[::1]80", "not an IPv6 address"),
        ("a:b:c", "not an IPv6 address"),
        ("[1:2]:3", "not an IPv6 address"),
        ("fe80::1%", "zone id"),
        ("fe80::1%a b", "zone id"),
        ("two words", "not the name"),
        ("http://a\\b", "not the name"),
        ("exa%6dple", "not the name"),
        ("x\x00", "not the name"),
        ("..ü", "not the name"),
        ("\udc80", "not the name"),
        ("http://x?a=1", "a query"),
        ("http://x/a?b", "a query"),
        ("http://x/#a", "a fragment"),
        ("unix://", "absolute path"),
        ("unix:///", "absolute path"),
        ("unix://run/ollama.sock", "absolute path"),
        ("unix:///a%00b", "absolute path"),
    ],
)
def test_a_bad_host_is_a_clear_error(value: str, reason: str) -> None:
    """What cannot be an address is refused before any request, and the text says why."""
    with pytest.raises(ConfigError, match=f"host .*{reason}"):
        parse_host(value)


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("https://me:p%40ss@example.com", Host("https://example.com:443", "me", "p@ss")),
        ("me@box", Host("http://box:11434", "me")),
        ("http://:token@box:1/p", Host("http://box:1/p", "", "token")),
        ("a:b#?c@d@[::1]:2", Host("http://[::1]:2", "a", "b#?c@d")),
    ],
)
def test_credentials_are_kept_apart_and_out_of_sight(value: str, host: Host) -> None:
    """User and password are taken out of the URL and not shown."""
    assert parse_host(value) == host
    assert repr(host) == f"Host({host.url!r}, credentials)"


@pytest.mark.parametrize(
    "value", ["http://me:p/zz@x", "me:pzz@x:port", "ftp://me:pzz@x", "me:p:zz@x?", "https://u:pzz@a\nb"]
)
def test_errors_do_not_tell_credentials(value: str) -> None:
    """Where the address is wrong, and also where the credentials make it wrong."""
    with pytest.raises(ConfigError, match=r"\*\*\*@") as caught:
        parse_host(value)
    assert "zz" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1%lo]:1", True),
        ("0.0.0.0", True),
        ("unix:///x", True),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_recognised(value: str, loopback: bool) -> None:  # noqa: FBT001
    """Only this machine is loopback."""
    assert parse_host(value).is_loopback is loopback


def test_the_machine_beneath_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever name it has inside a container, no proxy of the environment leads to it."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    options = LinkOptions(headers={}, auth=None, verify=True, connect_s=1, max_connections=1, transport=None)
    beneath = Host("http://host.docker.internal:11434", is_beneath=True)
    assert isinstance(make_link(beneath, options), NativeLink)
    assert not isinstance(make_link(Host(beneath.url), options), NativeLink)


def test_unix_sockets_are_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no event loop for them."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="Windows"):
        parse_host("unix:///x")


@given(st.sampled_from(["http", "https"]), NAMES | ADDRESSES.map("[{}]".format), PORTS, LABELS, USERINFO)
def test_a_url_is_taken_apart_and_keeps_its_parts(scheme: str, name: str, port: int, path: str, password: str) -> None:
    """Whatever scheme, name, port, path and credentials it is made of."""
    host = parse_host(f"{scheme}://me:{quote(password, safe='')}@{name}:{port}/{path}/")
    assert host == Host(f"{scheme}://{name}:{port}/{path}", "me", password)
    assert parse_host(host.url) == Host(host.url)


@given(st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_any_path_of_a_socket_can_be_written(path: str) -> None:
    """Percent-encoded, it comes out as it went in."""
    host = parse_host(f"unix:///{quote(path, safe='', errors='surrogatepass')}")
    if path.isprintable():
        assert host.socket_path == f"/{path}"
    assert parse_host(host.url) == host


@given(st.text(st.characters()) | st.text("htps:/[]@%25.?#u0'\" \tab1"))
@example("http://x/a'/")
@example("fe80::1%25")
@example("fe80::1%2525")
def test_any_text_is_refused_or_is_an_address_that_can_be_asked(text: str) -> None:
    """What is read can go on the wire as it is, and reads the same again."""
    try:
        host = parse_host(text)
    except ConfigError as exc:
        assert str(exc).startswith("host ")
        return
    assert parse_host(host.url) == Host(host.url)
    if not host.socket_path:
        parts = urlsplit(host.url)
        assert parts.port
        assert isinstance(host.is_loopback, bool)
        assert header_lines([("host", parts.netloc)]).decode("ascii")
        assert request_line("GET", parts.path)


# --- unix sockets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", [None, httpx.BasicAuth("me", "pw")], ids=["native", "httpx"])
@on_both
async def test_a_client_of_a_unix_socket(tmp_path: Path, auth: httpx.Auth | None) -> None:
    """Requests, streams and refusals, over one connection, whichever way leads to it."""
    path = tmp_path / "my ollama.sock"
    async with ScriptedOllama(unix_path=path) as fake:
        fake.enqueue("POST /api/show", Reply(404, json={"error": "model 'x' not found"}))
        async with OllamaClient(f"unix://{quote(str(path))}", auth=auth, retry=ONCE) as client:
            assert client.url == f"unix://{quote(str(path))}"
            assert repr(client) == f"OllamaClient({client.url!r})"
            assert await client.version()
            assert await read(client) == "You said: hello there"
            with pytest.raises(ModelNotFound, match="unix://"):
                await client.show("x")
        assert fake.connections_total == 1
        assert fake.requests[0].headers["host"] == "localhost"
        assert ("authorization" in fake.requests[0].headers) is (auth is not None)
        await fake.wait_closed_connections()


@on_both
async def test_credentials_of_any_kind_go_over_a_unix_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody reads along there, so nobody is warned."""
    async with (
        ScriptedOllama(unix_path=tmp_path / "s") as fake,
        OllamaClient(fake.url, auth=("me", "pw")) as client,
        OllamaClient(fake.url, api_key="key") as other,
    ):
        await client.version()
        await other.version()
        assert [r.headers["authorization"] for r in fake.requests] == ["Basic bWU6cHc=", "Bearer key"]
    assert not caplog.records


@pytest.mark.parametrize("auth", [None, httpx.BasicAuth("me", "pw")], ids=["native", "httpx"])
@on_both
async def test_a_unix_socket_that_nobody_listens_on(tmp_path: Path, auth: httpx.Auth | None) -> None:
    """It is missing, left over from a server that is gone, or can be no socket at all."""
    gone = tmp_path / "gone.sock"
    async with ScriptedOllama(unix_path=gone):
        pass
    reasons = {tmp_path / "missing": "No such file", gone: "refused", tmp_path / ("x" * 120): "too long"}
    for path, reason in reasons.items():
        async with OllamaClient(f"unix://{path}", auth=auth, retry=ONCE) as client:
            with pytest.raises(ConnectFailed, match=f"at unix://{path}: .*{reason}.* Start it") as caught:
                await client.version()
            assert isinstance(caught.value.__cause__, OSError)


@on_both
async def test_cancelled_anywhere_a_unix_socket_is_closed(tmp_path: Path) -> None:
    """The connection goes, or goes back."""
    async with ScriptedOllama(unix_path=tmp_path / "s") as fake, OllamaClient(fake.url, max_connections=1) as client:
        await client.version()
        assert isinstance(client._server._links[client.url], NativeLink)

        async def one_stream() -> None:
            await read(client)

        async for _ in cancelled_everywhere(one_stream):
            await fake.wait_until(lambda: fake.open_connections == pool_of(client).connections[1])
        assert await client.version()


def test_a_transport_cannot_be_told_of_a_unix_socket() -> None:
    """It would connect to somewhere else."""
    with pytest.raises(ConfigError, match=r"transport=.*unix:///x"):
        OllamaClient("unix:///x", transport=httpx.MockTransport(lambda _: httpx.Response(200)))
