"""Runs the engine in this process: binds, announces, serves until told to stop."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import ipaddress
import json
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from ollama_async_mem.errors import ConfigError, MissingExtra

from .leash import on_parent_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import uvicorn

    from .app import Engine

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "announce", "is_installed", "require_extra", "serve"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11434  # where programs for Ollama look
_PACKAGES = ("xllamacpp", "wordllama", "starlette", "uvicorn", "platformdirs")
_GRACE_S = 2
_LAST_MOMENT_S = 3.0
_KEEP_ALIVE_S = 75
_BACKLOG = 512


def serve(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    gguf: Sequence[Path] = (),
    models_dir: Path | None = None,
    threads: int | None = None,
    allow_remote: bool = False,
    exit_with_parent: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready` gets the URL once requests are answered.

    Port 0 takes a free one; `threads` compute, by default one for each core but one. Raises ConfigError when
    the address cannot be bound or a GGUF file cannot be served, MissingExtra when packages are missing.
    """
    require_extra()
    from .app import Engine  # noqa: PLC0415  needs the extra
    from .catalogue import Catalogue  # noqa: PLC0415  needs the extra
    from .fetch import sweep  # noqa: PLC0415  needs the extra
    from .models import Models  # noqa: PLC0415  needs the extra

    is_local = _is_loopback(host)
    if not (is_local or allow_remote):
        raise ConfigError(
            f"{host} can be reached from other machines and the engine knows no passwords; "
            "use 127.0.0.1, or say --allow-remote"
        )
    catalogue = Catalogue(models_dir, gguf)
    with _bound(host, port) as listener:
        sweep(catalogue.models_dir)
        engine = Engine(catalogue, Models(max_queue=_max_queue(), threads=threads))
        url = _url(listener)
        ready = on_ready or announce
        server = _server(engine, lambda: ready(url), check_host=is_local)
        if exit_with_parent:
            on_parent_exit(lambda: _end(server))
        asyncio.run(server.serve(sockets=[listener]))


def announce(url: str) -> None:
    """Say in one JSON line on standard output that the engine answers, and where."""
    print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)  # noqa: T201  the contract with the parent


def is_installed() -> bool:
    """Whether all packages of the extra `engine` are installed."""
    return all(importlib.util.find_spec(package) for package in _PACKAGES)


def require_extra() -> None:
    """Raises MissingExtra when a package of the extra `engine` is not installed."""
    if not is_installed():
        raise MissingExtra("engine", "the embedded engine")


def _end(server: uvicorn.Server) -> None:
    """End in order; after 3 s at once: runners and downloads are on leashes that this process holds."""
    server.should_exit = True
    time.sleep(_LAST_MOMENT_S)
    os._exit(0)


def _server(engine: Engine, ready: Callable[[], None], *, check_host: bool) -> uvicorn.Server:
    """Uvicorn for the engine."""
    import uvicorn  # noqa: PLC0415  needs the extra

    from .app import create_app  # noqa: PLC0415  needs the extra

    class Server(uvicorn.Server):
        """uvicorn that says when it is ready, and does not wait for long answers when it ends."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Start, then tell."""
            await super().startup(sockets)
            if self.started:
                ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """End what is going on, then close."""
            await engine.stop()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        create_app(engine, check_host=check_host),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        server_header=False,
    )
    return Server(config)


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError when the address is taken or not of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is: without, 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # there it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as exc:
        listener.close()
        reason = getattr(exc, "strerror", None) or str(exc)
        if getattr(exc, "errno", None) == errno.EADDRINUSE:
            reason += "; an Ollama may be running there already, use --port to choose another port"
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from exc
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _max_queue() -> int:
    """`OLLAMA_MAX_QUEUE`, as in Ollama."""
    text = os.environ.get("OLLAMA_MAX_QUEUE", "512")
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"OLLAMA_MAX_QUEUE must be a positive number, not {text!r}")
    return int(text)
