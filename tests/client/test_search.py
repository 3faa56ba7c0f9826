"""The one search for the machine around a container: when it is made, who waits for it, what it changes.

Where there is something to find is said here; that it is found is tested with the hosts.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from fakes import STALL, Close, Raw, Reply, ScriptedOllama, refusing_port

from ollama_async_mem import OllamaClient, RetryPolicy, Timeouts
from ollama_async_mem.errors import ConnectFailed, FirstByteTimeout, StatusError
from ollama_async_mem.ollama import _containers
from ollama_async_mem.ollama._exchange import LinkOptions, Upload
from ollama_async_mem.ollama._http import Server
from ollama_async_mem.ollama._search import HostSearch, advice_inside
from ollama_async_mem.ollama.hosts import Host, parse_host

from .backends import BACKENDS, ONCE, on_both, tls_server, together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import trustme


class Surroundings:
    """What the search finds, and what it was asked for."""

    def __init__(self) -> None:
        self.around: Host | None = None
        self.container: str | None = None
        self.searched: list[str] = []
        self.lasts_s = 0.0

    async def find_host(self, host: Host) -> Host | None:
        """Take the place of the real search."""
        self.searched.append(host.url)
        await anyio.sleep(self.lasts_s)
        return self.around

    def name(self) -> str | None:
        """Take the place of the real look around, which reads files."""
        assert threading.current_thread() is not threading.main_thread()
        return self.container


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """No container, until a test says otherwise."""
    made = Surroundings()
    monkeypatch.setattr(_containers, "find_host", made.find_host)
    monkeypatch.setattr(_containers, "container", made.name)
    return made


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address on which nobody listens."""
    with refusing_port() as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def serving(
    url: str, *, find_host: bool = True, retry: RetryPolicy = ONCE, timeouts: Timeouts | None = None
) -> AsyncIterator[Server]:
    """A server as a client has it."""
    timeouts = timeouts or Timeouts()
    options = LinkOptions(
        headers={}, auth=None, verify=True, connect_s=timeouts.connect_s, max_connections=100, transport=None
    )
    server = Server(parse_host(url), options, timeouts=timeouts, retry=retry, find_host=find_host)
    try:
        yield server
    finally:
        await server.aclose()


def version_of(server: Server) -> partial[Any]:
    """A request that any Ollama answers."""
    return partial(server.request, "GET", "/api/version")


@on_both
async def test_who_is_refused_is_answered_by_the_machine_around(
    fake: ScriptedOllama, nobody: str, surroundings: Surroundings
) -> None:
    """At once, without a retry, and from then on everybody is; there is one search."""
    surroundings.around = Host(fake.url)
    async with serving(nobody) as server:
        for _ in range(3):
            assert b"version" in await server.request("GET", "/api/version")
        assert server.host.url == fake.url
    assert surroundings.searched == [nobody]
    assert len(fake.requests) == 3
    assert fake.connections_total == 1
    await fake.wait_closed_connections()


@on_both
async def test_a_client_tells_where_it_found_its_server(
    fake: ScriptedOllama, nobody: str, surroundings: Surroundings
) -> None:
    """`url` is the address that answers."""
    surroundings.around = Host(fake.url)
    async with OllamaClient(nobody, find_host=True) as client:
        assert client.url == nobody
        await client.version()
        assert client.url == fake.url
    async with OllamaClient(nobody, find_host=False, retry=ONCE) as client:
        with pytest.raises(ConnectFailed):
            await client.version()
    assert surroundings.searched == [nobody]


@on_both
async def test_all_who_are_refused_at_once_share_a_search(
    fake: ScriptedOllama, nobody: str, surroundings: Surroundings
) -> None:
    """They wait for it, and nobody fails."""
    surroundings.around, surroundings.lasts_s = Host(fake.url), 0.1
    async with serving(nobody) as server:
        await together(*[version_of(server)] * 20)
    assert len(surroundings.searched) == 1
    assert len(fake.requests) == 20


@on_both
async def test_an_upload_arrives_whole(fake: ScriptedOllama, nobody: str, surroundings: Surroundings) -> None:
    """Nothing of it was taken before the connection stood."""
    surroundings.around = Host(fake.url)
    fake.enqueue("POST /api/blobs/x", Reply(201))

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 10_000

    async with serving(nobody) as server:
        await server.request("POST", "/api/blobs/x", Upload(pieces(), 500_000))
    assert fake.requests[0].body == b"x" * 500_000


@on_both
async def test_a_stream_is_answered_by_the_machine_around(
    fake: ScriptedOllama, nobody: str, surroundings: Surroundings
) -> None:
    """As any request."""
    surroundings.around = Host(fake.url)
    async with serving(nobody) as server, server.stream("POST", "/api/chat", {"model": "m"}) as receive:
        assert await receive()
    assert len(fake.requests) == 1


@on_both
async def test_a_base_path_is_that_of_the_found_one(
    fake: ScriptedOllama, nobody: str, surroundings: Surroundings
) -> None:
    """The path of an address belongs to it."""
    surroundings.around = Host(f"{fake.url}/there")
    async with serving(f"{nobody}/here") as server:
        with pytest.raises(StatusError, match="404"):  # the scripted Ollama serves nothing there
            await server.request("GET", "/api/version")
    assert [request.path for request in fake.requests] == ["/there/api/version"]


@on_both
async def test_where_nothing_is_found_the_error_is_the_first(nobody: str, surroundings: Surroundings) -> None:
    """With its cause and its advice; it is retried as ever, and searched for once."""
    async with serving(nobody, retry=RetryPolicy(attempts=3, base_s=0.01)) as server:
        for _ in range(2):
            with pytest.raises(ConnectFailed, match=r"ollama serve.*where it runs\.$") as caught:
                await server.request("GET", "/api/version")
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.retryable
        assert server.host.url == nobody
    assert surroundings.searched == [nobody]


@on_both
async def test_inside_a_container_the_error_says_so(nobody: str, surroundings: Surroundings) -> None:
    """Each time, with what to set."""
    surroundings.container = "docker"
    port = nobody.rpartition(":")[2]
    async with serving(nobody) as server:
        for _ in range(2):
            with pytest.raises(ConnectFailed) as caught:
                await server.request("GET", "/api/version")
            assert "Inside a docker container, 127.0.0.1 is the container itself" in str(caught.value)
            assert f"OLLAMA_HOST=http://host.docker.internal:{port}," in str(caught.value)
            assert "ollama serve" in str(caught.value)
            assert isinstance(caught.value.__cause__, OSError)
    assert len(surroundings.searched) == 1


@pytest.mark.parametrize(
    ("container", "inside", "there"),
    [
        ("docker", "Inside a docker container", "OLLAMA_HOST=https://host.docker.internal:8443/base,"),
        ("podman", "Inside a podman container", "OLLAMA_HOST=https://host.containers.internal:8443/base,"),
        ("container", "Inside a container", "OLLAMA_HOST=https://<the machine>:8443/base,"),
        ("kubernetes", "Inside a Kubernetes pod", "OLLAMA_HOST to the Ollama service."),
    ],
)
def test_advice_fits_the_container(container: str, inside: str, there: str) -> None:
    """Names, port and path are those that may work."""
    advice = advice_inside(container, parse_host("https://localhost:8443/base"))
    assert advice.startswith(f"{inside}, localhost is the ")
    assert f"set {there}" in advice


@on_both
async def test_a_server_that_has_answered_is_not_replaced(fake: ScriptedOllama, surroundings: Surroundings) -> None:
    """It is where it was said to be: when it is away, it restarts."""
    surroundings.around = Host("http://127.0.0.1:1")
    async with serving(fake.url) as server:
        await server.request("GET", "/api/version")
        await fake.stop()
        with pytest.raises(ConnectFailed, match="refused"):
            await server.request("GET", "/api/version")
        await fake.start()
        await server.request("GET", "/api/version")
        assert server.host.url == fake.url
    assert not surroundings.searched


@on_both
async def test_only_a_refusal_is_a_reason_to_search(fake: ScriptedOllama, surroundings: Surroundings) -> None:
    """Whoever closes or keeps silent is there."""
    fake.enqueue("GET /api/version", Raw([Close()]), Raw([STALL]))
    async with serving(fake.url, timeouts=Timeouts(connect_s=0.1, first_byte_s=0.1)) as server:
        with pytest.raises(ConnectFailed, match="without an answer"):
            await server.request("GET", "/api/version")
        with pytest.raises(FirstByteTimeout):
            await server.request("GET", "/api/version")
    async with serving(fake.url.replace("http:", "https:"), timeouts=Timeouts(connect_s=0.2)) as server:
        with pytest.raises(ConnectFailed, match="no connection within"):
            await server.request("GET", "/api/version")
    assert not surroundings.searched


@on_both
async def test_a_server_without_our_trust_is_not_passed_over(authority: trustme.CA, surroundings: Surroundings) -> None:
    """It is there, and what is around is no better."""
    async with tls_server(authority) as untrusted, serving(untrusted.url) as server:
        with pytest.raises(ConnectFailed, match="not trusted"):
            await server.request("GET", "/api/version")
    assert not surroundings.searched


@on_both
async def test_a_redirect_into_nothing_is_no_reason_either(
    fake: ScriptedOllama, nobody: str, surroundings: Surroundings
) -> None:
    """The server itself is there, also where it was found; it is not asked twice."""
    surroundings.around = Host(fake.url)
    with refusing_port() as port:
        away = f"http://127.0.0.1:{port}"
        fake.enqueue("GET /api/version", Reply(307, headers={"Location": f"{away}/"}), repeat=True)
        for address in (fake.url, nobody):
            async with serving(address) as server:
                with pytest.raises(ConnectFailed, match=away):
                    await server.request("GET", "/api/version")
                with pytest.raises(ConnectFailed, match=away):
                    await server.request("GET", "/api/version")
    assert surroundings.searched == [nobody]
    assert len(fake.requests) == 4


@on_both
async def test_it_can_be_switched_off(nobody: str, surroundings: Surroundings) -> None:
    """Then not even the container is looked for."""
    surroundings.container = "docker"
    async with serving(nobody, find_host=False) as server:
        with pytest.raises(ConnectFailed, match=r"where it runs\.$"):
            await server.request("GET", "/api/version")
    assert not surroundings.searched


@pytest.mark.parametrize(
    ("url", "is_open"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://localhost:11434", True),
        ("http://[::1]:11434", True),
        ("http://192.0.2.1:11434", False),
        ("http://ollama.test:11434", False),
        ("unix:///run/ollama.sock", False),
    ],
)
def test_only_loopback_is_searched_for(url: str, *, is_open: bool) -> None:
    """Any other address was meant."""
    assert HostSearch(parse_host(url), is_wanted=True).is_open is is_open
    assert not HostSearch(parse_host(url), is_wanted=False).is_open


@on_both
async def test_who_is_cancelled_leaves_the_search_to_the_next(
    fake: ScriptedOllama, nobody: str, surroundings: Surroundings
) -> None:
    """The next one then makes it."""
    surroundings.around, surroundings.lasts_s = Host(fake.url), 0.05
    async with serving(nobody) as server:
        first = anyio.CancelScope()

        async def cancelled() -> None:
            with first:
                await server.request("GET", "/api/version")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancelled)
            with anyio.fail_after(2):
                while not surroundings.searched:  # noqa: ASYNC110 - a list has no event
                    await anyio.sleep(0.001)
            tasks.start_soon(version_of(server))
            await anyio.sleep(0.01)
            first.cancel()
    assert len(surroundings.searched) == 2
    assert len(fake.requests) == 1


@pytest.mark.parametrize("second", BACKENDS)
@pytest.mark.parametrize("first", BACKENDS)
def test_event_loops_in_two_threads_search_for_the_same(
    fake: ScriptedOllama, nobody: str, surroundings: Surroundings, first: str, second: str
) -> None:
    """Each waits in its own way; both arrive."""
    surroundings.around, surroundings.lasts_s = Host(fake.url), 0.1
    options = LinkOptions(headers={}, auth=None, verify=True, connect_s=5, max_connections=100, transport=None)
    server = Server(parse_host(nobody), options, timeouts=Timeouts(), retry=ONCE, find_host=True)
    answers: list[bytes] = []

    async def ask() -> None:
        async def once() -> None:
            answers.append(await server.request("GET", "/api/version"))

        await together(once, once, once)

    threads = [
        threading.Thread(target=partial(anyio.run, ask, backend=backend), daemon=True) for backend in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(answers) == 6
    assert len(surroundings.searched) <= 2
