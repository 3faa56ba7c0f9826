"""Containers: in which kind this process runs, and the Ollama of the machine beneath.

Reads what the system tells and asks a few addresses for their version; it knows nothing of clients and their requests.
Only addresses of the machine itself are asked: an Ollama of a stranger would be told all that the user says.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import msgspec

from ollama_async_mem.errors import OllamaError, ProtocolError

from ._decode import decode
from ._exchange import LinkOptions
from .hosts import Host
from .schema import VersionResponse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._exchange import Answer

__all__ = ["candidates", "container", "default_gateway", "find_host"]

_LOGGER = logging.getLogger(__name__)
_VERSION = msgspec.json.Decoder(VersionResponse)
_ROOT = Path("/")
SEARCH_S = 1.0
_VERSION_BYTES = 4096
_SUCCESS = 200

# Kubernetes first: its containers bear the marks of those who run them too.
_MARKS = {"kubernetes": "var/run/secrets/kubernetes.io", "podman": "run/.containerenv", "docker": ".dockerenv"}
_TRACES = {
    "kube": "kubernetes",
    "podman": "podman",
    "libpod": "podman",
    "overlay-containers": "podman",
    "docker": "docker",
    "containerd": "container",
    "nerdctl": "container",
    "lxc": "container",
    "nspawn": "container",
}
_BROUGHT_IN = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}  # files that a container is given from outside
_NAMES = {
    "docker": ("host.docker.internal",),
    "podman": ("host.containers.internal", "host.docker.internal"),
    "container": ("host.docker.internal", "host.containers.internal"),
}
_DOCKER_BRIDGE = "172.17.0.1"
_ROUTE_COLUMNS = 8
_UP_TO_A_GATEWAY = 0x3  # RTF_UP and RTF_GATEWAY of linux/route.h


def container(root: Path = _ROOT, environment: Mapping[str, str] = os.environ) -> str | None:
    """Name what this process runs in: "docker", "podman", "kubernetes", "container" (other), or None."""
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    for kind, mark in _MARKS.items():
        if os.access(root / mark, os.F_OK):
            return kind
    traces = "\n".join([environment.get("container", ""), *_told_by_the_system(root)])
    return next((kind for trace, kind in _TRACES.items() if trace in traces), None)


def _told_by_the_system(root: Path) -> list[str]:
    """What tells of containers, and only of the one that this process is in."""
    first = _text(root / "proc/1/environ").split("\0")  # the `container=` of systemd's container interface
    mounts = [line.split() for line in _text(root / "proc/self/mountinfo").splitlines()]
    return [
        *(variable for variable in first if variable.startswith("container=")),
        _text(root / "proc/1/cgroup"),
        *(fields[3] for fields in mounts if len(fields) > 4 and fields[4] in _BROUGHT_IN),  # noqa: PLR2004 - see proc(5)
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):  # another system than Linux, or none of our business
        return ""


def candidates(kind: str, root: Path = _ROOT) -> list[str]:
    """Names and addresses that the machine beneath a container may have, the likeliest first."""
    found = list(_NAMES[kind])
    interface, gateway = default_gateway(_text(root / "proc/net/route"))
    if gateway and _leads_out_of_here(root / "sys/class/net" / interface):
        found.append(gateway)
    if kind == "docker" and _DOCKER_BRIDGE not in found:
        found.append(_DOCKER_BRIDGE)
    return found


def default_gateway(table: str) -> tuple[str, str]:
    """Read the default route of the lowest metric from /proc/net/route: interface and address, or "". Pure.

    Addresses in it are hexadecimal numbers of four bytes in the order of the processor.
    """
    routes: list[tuple[int, str, str]] = []
    for line in table.splitlines()[1:]:
        with suppress(ValueError, OverflowError):
            interface, target, gateway, flags, _, _, metric, mask = line.split()[:_ROUTE_COLUMNS]
            address = ipaddress.IPv4Address(int(gateway, 16).to_bytes(4, sys.byteorder))
            is_used = int(flags, 16) & _UP_TO_A_GATEWAY == _UP_TO_A_GATEWAY
            if is_used and int(target, 16) == int(mask, 16) == 0:
                routes.append((int(metric), interface, str(address)))
    return min(routes, key=itemgetter(0))[1:] if routes else ("", "")


def _leads_out_of_here(interface: Path) -> bool:
    """Whether a network interface is one end of a pair, whose other end is on the machine beneath.

    A container that shares the network of its machine has the machine's own gateway, which is somebody's router.
    """
    index, other_end = _text(interface / "ifindex").strip(), _text(interface / "iflink").strip()
    return bool(index and other_end) and index != other_end


async def find_host(host: Host, *, root: Path = _ROOT, environment: Mapping[str, str] = os.environ) -> Host | None:
    """Look for the Ollama of the machine that this container runs on; None where it is not found or not looked for.

    Takes `SEARCH_S` seconds at most. What is found has the scheme, port and path of `host`, which is a loopback one.
    """
    if not host.is_loopback or host.socket_path:
        return None
    kind = await anyio.to_thread.run_sync(container, root, environment)
    if kind is None:
        return None
    if kind == "kubernetes":  # loopback is the pod, and whatever is on the node is not the user's
        _LOGGER.info("no Ollama at %s in this Kubernetes pod: set OLLAMA_HOST to the service that has one", host.url)
        return None
    names = await anyio.to_thread.run_sync(candidates, kind, root)
    found = await _first([_moved(host, name) for name in names])
    _LOGGER.info("no Ollama at %s in this %s container, %s", host.url, kind, _outcome(found))
    return found


def _outcome(found: Host | None) -> str:
    if found:
        return f"using the one at {found.url}"
    return "nor on its machine: set OLLAMA_HOST, or have that of the machine listen on 0.0.0.0"


def _moved(host: Host, name: str) -> Host:
    parts = urlsplit(host.url)
    return Host(f"{parts.scheme}://{name}:{parts.port}{parts.path}", is_beneath=True)


async def _first(hosts: Sequence[Host]) -> Host | None:
    """Ask all at once; the first in their order that is an Ollama, as soon as those before it are known not to be."""
    is_one: list[bool | None] = [None] * len(hosts)

    async def ask(number: int) -> None:
        is_one[number] = await _is_ollama(hosts[number])
        if next((known for known in is_one if known is not False), False):
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.cancel_scope.deadline = anyio.current_time() + SEARCH_S
        for number in range(len(hosts)):
            tasks.start_soon(ask, number)
    return next((host for host, known in zip(hosts, is_one, strict=True) if known), None)


async def _is_ollama(host: Host) -> bool:
    from ._links import NativeLink  # noqa: PLC0415 - sockets, TLS and asyncio are loaded with the first request

    headers = {"accept-encoding": "identity"}
    options = LinkOptions(
        headers=headers, auth=None, verify=True, connect_s=SEARCH_S, max_connections=1, transport=None
    )
    link = NativeLink(host, options, None)
    try:
        answer = await link.open("GET", f"{urlsplit(host.url).path}/api/version", None)
        return answer.status == _SUCCESS and bool(decode(await _whole(answer), _VERSION).version)
    except OllamaError as exc:
        _LOGGER.debug("no Ollama at %s: %s", host.url, exc)
        return False
    finally:
        await link.aclose()


async def _whole(answer: Answer) -> bytes:
    body = b""
    while piece := await answer.receive():
        body += piece
        if len(body) > _VERSION_BYTES:
            raise ProtocolError("that is longer than a version")
    return body
