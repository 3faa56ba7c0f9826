"""Inside a container: which kind it is, and the search for the Ollama of the machine beneath, over real sockets."""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from fakes import STALL, Close, Hold, Raw, Reply, ScriptedOllama, head, refusing_port
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem import OllamaClient
from ollama_async_mem.errors import ConnectFailed
from ollama_async_mem.ollama import _containers
from ollama_async_mem.ollama._containers import candidates, container, default_gateway, find_host
from ollama_async_mem.ollama._links import NativeLink
from ollama_async_mem.ollama.hosts import Host, parse_host

from .backends import ONCE, VERSION, cancelled_everywhere, on_both

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEADINGS = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT \n"
BRIDGED = f"""{HEADINGS}eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0 \
\neth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""
LAPTOP = f"""{HEADINGS}docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
bond0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
usb0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0
eth0\t00000000\tFE01A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
tun0\t00000000\t0100080A\t0003\t0\t0\t50\t00000080\t0\t0\t0
down0\t00000000\t0100090A\t0002\t0\t0\t10\t00000000\t0\t0\t0
"""
TO_LOOPBACK = f"{HEADINGS}eth0\t00000000\t0300007F\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
PAIRED = {"sys/class/net/eth0/ifindex": "2\n", "sys/class/net/eth0/iflink": "17\n"}
PHYSICAL = {"sys/class/net/eth0/ifindex": "2\n", "sys/class/net/eth0/iflink": "2\n"}
BY_NAME, BY_GATEWAY, BY_BRIDGE = "127.0.0.2", "127.0.0.3", "127.0.0.4"
PLACES = (BY_NAME, BY_GATEWAY, BY_BRIDGE)
MOUNT = "812 800 8:1 {} {} rw,relatime - ext4 /dev/sda1 rw\n"


def with_files(root: Path, files: dict[str, str]) -> Path:
    """A root folder with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root folder of a Docker container, whose machine has three addresses on our loopback."""
    monkeypatch.setitem(_containers._NAMES, "docker", (BY_NAME,))
    monkeypatch.setattr(_containers, "_DOCKER_BRIDGE", BY_BRIDGE)
    return with_files(tmp_path, {".dockerenv": "", "proc/net/route": TO_LOOPBACK, **PAIRED})


@pytest.fixture
def machine() -> Iterator[list[ScriptedOllama]]:
    """An Ollama at each of them, on one port, on which nobody listens at 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(refusing_port())
        yield [stack.enter_context(ScriptedOllama(host=place, port=port)) for place in PLACES]


def home(machine: list[ScriptedOllama]) -> Host:
    """Where the container looks first."""
    return parse_host(f"127.0.0.1:{machine[0].port}/base")


async def found_in(docker: Path, machine: list[ScriptedOllama]) -> str | None:
    """The address at which one is found, which has the port and path that were asked for."""
    found = await find_host(home(machine), root=docker, environment={})
    if found is None:
        return None
    name = found.url.removeprefix("http://").removesuffix(f":{machine[0].port}/base")
    assert found == Host(f"http://{name}:{machine[0].port}/base", is_beneath=True)
    return name


def says(fake: ScriptedOllama, *steps: Any) -> None:
    """Have one answer the question for its version like this; by default it says 404 below a path."""
    fake.enqueue("GET /base/api/version", Raw(steps), repeat=True)


def is_ollama(fake: ScriptedOllama) -> None:
    """Have one answer as Ollama does."""
    fake.enqueue("GET /base/api/version", Reply(body=VERSION), repeat=True)


# --- in which container -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "environment", "kind"),
    [
        ({}, {}, None),
        ({"proc/1/cgroup": "0::/init.scope\n", "proc/1/environ": "HOME=/\0TERM=linux\0"}, {"HOME": "/root"}, None),
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": 'engine="podman-5"\n'}, {}, "podman"),
        ({"run/.containerenv": "", ".dockerenv": ""}, {}, "podman"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({".dockerenv": "", "var/run/secrets/kubernetes.io/serviceaccount/token": "x"}, {}, "kubernetes"),
        ({}, {"container": "podman"}, "podman"),
        ({}, {"container": "lxc"}, "container"),
        ({"proc/1/environ": "HOME=/\0container=systemd-nspawn\0"}, {}, "container"),
        ({"proc/1/environ": "HOME=/docker\0NAME=lxc\0"}, {}, None),
        ({"proc/1/cgroup": "12:cpu:/docker/0123456789ab\n0::/\n"}, {}, "docker"),
        ({"proc/1/cgroup": "0::/system.slice/docker-0123.scope\n"}, {}, "docker"),
        ({"proc/1/cgroup": "4:memory:/kubepods/besteffort/pod1/ab\n"}, {}, "kubernetes"),
        ({"proc/1/cgroup": "0::/machine.slice/libpod-0123.scope/container\n"}, {}, "podman"),
        ({"proc/1/cgroup": "9:pids:/lxc/web\n"}, {}, "container"),
        ({"proc/self/mountinfo": MOUNT.format("/var/lib/docker/containers/0/hosts", "/etc/hosts")}, {}, "docker"),
        ({"proc/self/mountinfo": MOUNT.format("/lib/kubelet/pods/0/etc-hosts", "/etc/hosts")}, {}, "kubernetes"),
        ({"proc/self/mountinfo": MOUNT.format("/nerdctl/1/0/hostname", "/etc/hostname")}, {}, "container"),
        (  # a machine on which containers run
            {"proc/self/mountinfo": MOUNT.format("/", "/var/lib/docker/overlay2/0/merged") + "short line\n\n"},
            {},
            None,
        ),
    ],
)
def test_containers_are_recognised(
    tmp_path: Path, files: dict[str, str], environment: dict[str, str], kind: str | None
) -> None:
    """By the marks that they bear, and not by what runs beside."""
    assert container(with_files(tmp_path, files), environment) == kind


def test_what_cannot_be_read_is_no_trace(tmp_path: Path) -> None:
    """Another system than Linux, or a folder where a file should be."""
    (tmp_path / "proc/1/cgroup").mkdir(parents=True)
    (tmp_path / "proc/self").write_bytes(b"\xff")
    assert container(tmp_path, {}) is None
    assert container(tmp_path / "nothing", {}) is None
    assert candidates("docker", tmp_path) == ["host.docker.internal", "172.17.0.1"]


# --- where to look ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "route"),
    [
        (BRIDGED, ("eth0", "172.17.0.1")),
        (LAPTOP, ("eth0", "192.168.1.254")),
        (TO_LOOPBACK, ("eth0", BY_GATEWAY)),
        (HEADINGS, ("", "")),
        ("", ("", "")),
        (f"{HEADINGS}eth0 00000000\n\n?\n", ("", "")),
        (f"{HEADINGS}eth0 00000000 xx 0003 0 0 0 00000000\n", ("", "")),
        (f"{HEADINGS}eth0 00000000 FFFFFFFFFF 0003 0 0 0 00000000\n", ("", "")),
        (f"{HEADINGS}eth0 00000000 -1 0003 0 0 0 00000000\n", ("", "")),
    ],
)
def test_the_default_gateway_is_read(table: str, route: tuple[str, str]) -> None:
    """That of the lowest metric, of those that are up and lead to one."""
    assert default_gateway(table) == route


@given(st.text() | st.text("eth0 \n\t0123FACx-").map(HEADINGS.__add__))
def test_no_text_breaks_the_reader_of_routes(text: str) -> None:
    """Whatever it is, nothing or an address is read."""
    interface, gateway = default_gateway(text)
    assert bool(interface) is bool(gateway)


@pytest.mark.parametrize(
    ("kind", "files", "found"),
    [
        ("docker", {"proc/net/route": LAPTOP, **PAIRED}, ["host.docker.internal", "192.168.1.254", "172.17.0.1"]),
        ("docker", {"proc/net/route": BRIDGED, **PAIRED}, ["host.docker.internal", "172.17.0.1"]),
        ("docker", {"proc/net/route": LAPTOP, **PHYSICAL}, ["host.docker.internal", "172.17.0.1"]),
        ("docker", {"proc/net/route": BRIDGED}, ["host.docker.internal", "172.17.0.1"]),
        (
            "podman",
            {"proc/net/route": BRIDGED, **PAIRED},
            ["host.containers.internal", "host.docker.internal", "172.17.0.1"],
        ),
        ("podman", {}, ["host.containers.internal", "host.docker.internal"]),
        ("container", {}, ["host.docker.internal", "host.containers.internal"]),
    ],
)
def test_only_the_machine_itself_is_a_candidate(
    tmp_path: Path, kind: str, files: dict[str, str], found: list[str]
) -> None:
    """A gateway is it only where the interface is one end of a pair; Docker's bridge only where Docker is."""
    assert candidates(kind, with_files(tmp_path, files)) == found


# --- the search ---------------------------------------------------------------------------------------------------


@on_both
async def test_the_preferred_one_is_found(docker: Path, machine: list[ScriptedOllama]) -> None:
    """It is asked for its version below the path, with nothing of the user's; slower ones are not waited for."""
    is_ollama(machine[0])
    for other in machine[1:]:
        says(other, STALL)
    with anyio.fail_after(_containers.SEARCH_S / 2):
        assert await found_in(docker, machine) == BY_NAME
    (request,) = machine[0].requests
    assert request.route == "GET /base/api/version"
    assert set(request.headers) == {"host", "accept-encoding"}
    for fake in machine:
        await fake.wait_closed_connections()


@on_both
async def test_a_slow_preferred_one_is_waited_for(docker: Path, machine: list[ScriptedOllama]) -> None:
    """Preference is not speed."""
    hold = Hold()
    says(machine[0], hold, head(headers={"Content-Length": str(len(VERSION))}) + VERSION)
    is_ollama(machine[1])
    is_ollama(machine[2])

    async def release_late() -> None:
        for fake in machine[1:]:
            await fake.wait_until(lambda fake=fake: any(r.completed for r in fake.requests))  # type: ignore[misc]
        hold.release()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(release_late)
        assert await found_in(docker, machine) == BY_NAME


@on_both
async def test_a_silent_preferred_one_is_given_up(
    docker: Path, machine: list[ScriptedOllama], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time is over, the best of those that answered is taken."""
    monkeypatch.setattr(_containers, "SEARCH_S", 0.3)
    says(machine[0], STALL)
    says(machine[1], b"HTTP/1.1 200 OK\r\n", STALL)
    is_ollama(machine[2])
    began = anyio.current_time()
    assert await found_in(docker, machine) == BY_BRIDGE
    assert 0.3 <= anyio.current_time() - began < 1
    for fake in machine:
        await fake.wait_closed_connections()


@pytest.mark.parametrize(
    "answer",
    [
        Reply(body="<html>Welcome to your router</html>", headers={"Content-Type": "text/html"}),
        Reply(404, json={"version": "1"}),
        Reply(307, headers={"Location": "/api/version"}),
        Reply(json={"status": "ok"}),
        Reply(json={"version": "1", "padding": "x" * 10_000}),
        Reply(json=["version"]),
        Raw([b"SSH-2.0-OpenSSH_9.6\r\n"]),
        Raw([Close()]),
    ],
    ids=["page", "404", "redirect", "other", "long", "list", "ssh", "closed"],
)
@on_both
async def test_what_is_not_ollama_is_passed_over(docker: Path, machine: list[ScriptedOllama], answer: Any) -> None:
    """An open port is not enough."""
    machine[0].enqueue("GET /base/api/version", answer, repeat=True)
    is_ollama(machine[1])
    assert await found_in(docker, machine) == BY_GATEWAY
    for fake in machine:
        await fake.wait_closed_connections()


@on_both
async def test_nothing_is_found_where_nobody_listens(
    docker: Path, machine: list[ScriptedOllama], caplog: pytest.LogCaptureFixture
) -> None:
    """That is known at once, and said."""
    for fake in machine:
        await fake.stop()
    caplog.set_level(logging.DEBUG, _containers.__name__)
    with anyio.fail_after(_containers.SEARCH_S / 2):
        assert await found_in(docker, machine) is None
    probed = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert all(any(place in text for text in probed) for place in PLACES)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert "docker" in said
    assert "OLLAMA_HOST" in said


@on_both
async def test_it_is_said_what_was_found(
    docker: Path, machine: list[ScriptedOllama], caplog: pytest.LogCaptureFixture
) -> None:
    """Where the requests go is no secret."""
    is_ollama(machine[1])
    caplog.set_level(logging.INFO, _containers.__name__)
    await found_in(docker, machine)
    assert f"http://{BY_GATEWAY}:{machine[0].port}/base" in caplog.text


@on_both
async def test_cancelled_anywhere_nothing_stays_open(docker: Path, machine: list[ScriptedOllama]) -> None:
    """Wherever the search is cancelled, its sockets are closed."""
    for fake in machine[:2]:
        says(fake, b"HTTP/1.1 404 Not Found\r\n", b"Content-Length: 0\r\n\r\n")
    is_ollama(machine[2])

    async def search() -> None:
        assert await found_in(docker, machine) == BY_BRIDGE

    count = 0
    async for count in cancelled_everywhere(search):  # noqa: B007 - how often it was
        for fake in machine:
            await fake.wait_closed_connections()
    assert count > 2


@pytest.mark.parametrize("place", ["no container", "kubernetes", "not loopback", "unix socket"])
@on_both
async def test_nobody_is_asked_elsewhere(
    docker: Path, machine: list[ScriptedOllama], caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """Outside of containers, in pods, and for servers that were never on loopback."""
    caplog.set_level(logging.INFO, _containers.__name__)
    hosts = {"not loopback": parse_host("10.0.0.1"), "unix socket": parse_host("unix:///x")}
    if place == "no container":
        (docker / ".dockerenv").unlink()
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"} if place == "kubernetes" else {}
    assert await find_host(hosts.get(place, home(machine)), root=docker, environment=environment) is None
    assert [fake.connections_total for fake in machine] == [0, 0, 0]
    assert ("OLLAMA_HOST" in caplog.text) is (place == "kubernetes")


# --- the client ---------------------------------------------------------------------------------------------------


@pytest.fixture
def inside(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients find themselves in that container."""
    monkeypatch.setattr(_containers, "find_host", functools.partial(find_host, root=docker, environment={}))
    monkeypatch.setattr(_containers, "container", lambda *_: container(docker, {}))


@on_both
async def test_a_client_in_a_container_finds_the_server(
    inside: None, machine: list[ScriptedOllama], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked from then on, and no proxy of the environment is between."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    await machine[0].stop()
    async with OllamaClient(f"127.0.0.1:{machine[0].port}", retry=ONCE, find_host=True) as client:
        assert await client.version()
        assert await client.tags()
        assert client.url == machine[1].url
        assert isinstance(client._server._links[client.url], NativeLink)
    assert [r.path for r in machine[1].requests] == ["/api/version", "/api/version", "/api/tags"]
    assert machine[2].requests_to("GET /api/tags") == []


@pytest.mark.parametrize(
    ("value", "wanted", "is_on"),
    [
        (None, None, True),
        ("", None, True),
        ("1", None, True),
        (" No ", None, False),
        ("0", None, False),
        ("FALSE", None, False),
        ("off", None, False),
        ("0", True, True),
        (None, False, False),
    ],
)
@on_both
async def test_the_search_is_switched(  # noqa: PLR0917 - fixtures
    inside: None,
    machine: list[ScriptedOllama],
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    wanted: bool | None,  # noqa: FBT001
    is_on: bool,  # noqa: FBT001
) -> None:
    """By the argument, else by the environment; it is on."""
    monkeypatch.delenv("OLLAMA_ASYNC_MEM_FIND_HOST")
    if value is not None:
        monkeypatch.setenv("OLLAMA_ASYNC_MEM_FIND_HOST", value)
    async with OllamaClient(f"127.0.0.1:{machine[0].port}", retry=ONCE, find_host=wanted) as client:
        if is_on:
            assert await client.version()
        else:
            with pytest.raises(ConnectFailed):
                await client.version()
    assert bool(machine[0].connections_total) is is_on


@pytest.mark.parametrize(
    "given_arguments",
    [
        {"api_key": "k"},
        {"auth": ("me", "pw")},
        {"auth": httpx.BasicAuth("me", "pw")},
        {"headers": {"Cookie": "a=b"}},
        {"headers": {"X-Api-Key": "k"}},
        {"transport": httpx.AsyncHTTPTransport},
        {"user": "me:pw@"},
        {"user": ":pw@"},
    ],
    ids=str,
)
@on_both
async def test_credentials_stay_where_they_were_meant_for(
    inside: None, machine: list[ScriptedOllama], given_arguments: dict[str, Any]
) -> None:
    """With any of them, or a way of the user's own, nobody else is asked."""
    arguments = dict(given_arguments)
    url = f"{arguments.pop('user', '')}127.0.0.1:{machine[0].port}"
    if "transport" in arguments:
        arguments["transport"] = arguments["transport"]()
    async with OllamaClient(url, retry=ONCE, find_host=True, **arguments) as client:
        with pytest.raises(ConnectFailed):
            await client.version()
    assert [fake.connections_total for fake in machine] == [0, 0, 0]


@on_both
async def test_the_users_agent_and_wishes_are_no_secrets(inside: None, machine: list[ScriptedOllama]) -> None:
    """They may go to the server that is found."""
    headers = {"User-Agent": "mine", "Accept": "application/json"}
    async with OllamaClient(f"127.0.0.1:{machine[0].port}", retry=ONCE, find_host=True, headers=headers) as client:
        assert await client.version()
    assert machine[0].requests[-1].headers["user-agent"] == "mine"
