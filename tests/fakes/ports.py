"""Loopback ports that are ours but on which nobody listens."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.1"


def bound_socket(port: int = 0, host: str = LOOPBACK) -> socket.socket:
    """A socket bound but not listening: it keeps the port from others, and who connects is refused.

    With SO_REUSEADDR on both, a second one may be bound to the same port and listen.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is, as Go does for Ollama.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock


@contextmanager
def refusing_port() -> Iterator[int]:
    """A loopback port that refuses every connection for as long as the block lasts."""
    with bound_socket() as sock:
        yield sock.getsockname()[1]
