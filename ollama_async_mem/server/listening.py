"""Sockets to listen on, and what proves to clients that they are ours. Knows nothing of what is served there."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import sys

from ollama_async_mem.errors import ConfigError

__all__ = ["bound_socket", "room_for", "tls_context", "url_of"]

_BACKLOG = 2048


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket; may block while the name of the host is looked up.

    Raises:
        ConfigError: the address is taken, or none of this machine.
    """
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is: without, 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # there it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((name, port))
        listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as exc:
        listener.close()
        reason = getattr(exc, "strerror", None) or str(exc)
        if getattr(exc, "errno", None) == errno.EADDRINUSE:
            reason += "; choose another with --port or --proxy-port, or leave a part out with --no-proxy"
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from exc
    return listener


def room_for(connections: int) -> int:
    """Return how many connections there can be: half of the files that the process may open, after asking for more.

    The other half is for the store and for Ollama. Without it, idle strangers could keep the store from opening a file.
    """
    if sys.platform == "win32":
        return connections
    import resource  # noqa: PLC0415 - only on POSIX

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= 2 * connections:
        return connections
    most = 2 * connections if hard == resource.RLIM_INFINITY else min(hard, 2 * connections)
    with contextlib.suppress(ValueError, OSError):  # macOS has one more limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return min(connections, soft // 2)


def tls_context(cert: str, key: str | None) -> ssl.SSLContext:
    """Return what https needs, from a file of certificates and one of the key, which may be in the first.

    Raises:
        ConfigError: they cannot be read, or do not go together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password=lambda: "")  # it would ask on the terminal
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        raise ConfigError(f"cannot use --tls-cert {cert}{f' with --tls-key {key}' if key else ''}: {exc}") from exc
    return context


def url_of(listener: socket.socket, *, tls: bool) -> str:
    """Return the address of a listening socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
