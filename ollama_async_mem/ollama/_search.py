"""Where a server may be that is not on our loopback: on the machine around our container. One search for all who ask.

It knows when a search makes sense and what to advise where nothing is found; `_containers` knows where to look.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from ollama_async_mem.errors import ConnectFailed

if TYPE_CHECKING:
    from ._exchange import LinkOptions
    from .hosts import Host

__all__ = ["HostSearch", "advice_inside", "may_search"]

_MACHINES = {"docker": "host.docker.internal", "podman": "host.containers.internal"}
_SWITCH = "OLLAMA_ASYNC_MEM_FIND_HOST"
_OFF = {"0", "false", "no", "off"}


def may_search(wanted: bool | None, host: Host, options: LinkOptions) -> bool:  # noqa: FBT001 - as users give it
    """Whether another server may be searched for in place of `host`; None leaves it to the environment, where it may.

    Never where there are credentials, headers, a transport or an ssl.SSLContext of the user: they are for the
    configured server alone.
    """
    if wanted is None:
        wanted = os.environ.get(_SWITCH, "").strip().lower() not in _OFF
    return wanted and not (host.username or host.password) and options.is_for_anyone


class HostSearch:
    """The search for one server; `is_open` until it was made, or proves needless because the server answers."""

    def __init__(self, home: Host, *, is_wanted: bool) -> None:
        self.is_open = is_wanted and home.is_loopback and not home.url.startswith("unix:")
        self._home = home
        self._found: Host | None = None
        self._advice = ""
        self._locks: dict[object, anyio.Lock] = {}

    async def elsewhere(self, failure: ConnectFailed) -> Host:
        """Find the server that was not reached where it should be.

        Raises:
            ConnectFailed: `failure`, with advice where that is to be had.
        """
        if failure.url != self._home.url or not _is_refusal(failure):
            raise failure
        if self.is_open:
            await self._search_once()
        if self._found is not None:
            return self._found
        if self._advice:
            raise ConnectFailed(failure.url, failure.reason, advice=self._advice) from failure.__cause__
        raise failure

    async def _search_once(self) -> None:
        """Search, while those who are refused at the same time wait for it; each event loop has a lock of its own."""
        from anyio import to_thread  # noqa: PLC0415 - needed at most once, as all of these
        from anyio.lowlevel import current_token  # noqa: PLC0415

        from . import _containers  # noqa: PLC0415

        async with self._locks.setdefault(current_token(), anyio.Lock()):
            if not self.is_open:
                return
            found = await _containers.find_host(self._home)
            if found is None and (container := await to_thread.run_sync(_containers.container)):
                self._advice = advice_inside(container, self._home)
            if self.is_open:  # else the server has answered meanwhile
                self._found, self.is_open = found, False


def _is_refusal(failure: ConnectFailed) -> bool:
    """Whether nobody listens there, or no way leads there; what fails within TLS or in silence was reached."""
    import ssl  # noqa: PLC0415 - loaded with the first request

    return isinstance(failure.__cause__, OSError) and not isinstance(failure.__cause__, ssl.SSLError | TimeoutError)


def advice_inside(container: str, home: Host) -> str:
    """Say what to do where the loopback of a container was asked for. Pure."""
    parts = urlsplit(home.url)
    if container == "kubernetes":
        return f"Inside a Kubernetes pod, {parts.hostname} is the pod itself: set OLLAMA_HOST to the Ollama service."
    kind = "container" if container == "container" else f"{container} container"
    machine = _MACHINES.get(container, "<the machine>")
    return (
        f"Inside a {kind}, {parts.hostname} is the container itself: for the Ollama of the machine, set "
        f"OLLAMA_HOST={parts.scheme}://{machine}:{parts.port}{parts.path}, and have it listen to others too, with "
        "OLLAMA_HOST=0.0.0.0 there."
    )
