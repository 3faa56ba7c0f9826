"""What is exchanged with a server and how a way to it looks, whichever way it is. Imports nothing that is slow."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import httpx

__all__ = ["Answer", "Content", "Link", "LinkOptions", "Upload", "as_json"]

_FOR_ANYONE = {"accept", "accept-encoding", "user-agent"}


class Upload(msgspec.Struct, frozen=True):
    """A body that is sent piece by piece; the pieces are `size_bytes` long together."""

    pieces: AsyncIterable[bytes]
    size_bytes: int
    kind: str = "application/octet-stream"
    on_piece: Callable[[], object] | None = None
    """Called whenever a piece is taken, which is when the one before it was sent."""

    async def checked(self) -> AsyncIterator[bytes]:
        """Give the pieces.

        Raises:
            ConfigError: they are more or less than announced.
        """
        left = self.size_bytes
        try:
            async for piece in self.pieces:
                left -= len(piece)
                if left < 0:
                    break
                if self.on_piece:
                    self.on_piece()
                yield piece
        finally:
            if isinstance(self.pieces, AsyncGenerator):
                await self.pieces.aclose()
        if left:
            raise ConfigError(f"the upload is not {self.size_bytes:,} bytes long, as was announced")


Content = bytes | Upload | None


def as_json(body: object) -> bytes:
    """Write the body of a request.

    Raises:
        ConfigError: it holds what JSON cannot.
    """
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ConfigError(f"the request cannot be written as JSON: {exc}") from exc


class Answer(Protocol):
    """A response as it comes."""

    status: int

    @property
    def is_at_hand(self) -> bool:
        """Whether `receive` has something to give, or the end, without waiting."""
        ...

    def header(self, name: str) -> str:
        """Value of a header, "" where it is absent."""
        ...

    async def receive(self) -> bytes:
        """Wait for more of the body; b"" at its end."""
        ...

    async def aclose(self) -> None:
        """End the exchange, also when cancelled; the connection is kept where that is possible."""
        ...


class Link(Protocol):
    """A way to a server."""

    async def open(self, method: str, target: str, content: Content) -> Answer:
        """Send a request for an absolute path and wait for the head of the answer."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class LinkOptions:
    """What a link is made of, as `OllamaClient` was given it."""

    __slots__ = ("auth", "connect_s", "headers", "max_connections", "transport", "verify", "wait_s")

    def __init__(
        self,
        *,
        headers: Mapping[str, str],
        auth: httpx.Auth | tuple[str, str] | None,
        verify: Any,
        connect_s: float,
        max_connections: int,
        transport: httpx.AsyncBaseTransport | None,
        wait_s: float | None = None,
    ) -> None:
        self.headers = headers
        self.auth = auth
        self.verify = verify
        self.connect_s = connect_s
        self.max_connections = max_connections
        self.transport = transport
        self.wait_s = wait_s

    @property
    def has_own_tls(self) -> bool:
        """Whether TLS is the user's own; it may then hold a certificate that tells who the user is."""
        return not isinstance(self.verify, bool | str)

    @property
    def is_for_anyone(self) -> bool:
        """Whether nothing of it is meant for the configured server alone."""
        is_ours = self.auth is not None or self.transport is not None or self.has_own_tls
        return not is_ours and all(name.lower() in _FOR_ANYONE for name in self.headers)

    def without_credentials(self) -> LinkOptions:
        """The same for a server that was not configured: no authentication and none of the user's headers."""
        return LinkOptions(
            headers={name: value for name, value in self.headers.items() if name.lower() in _FOR_ANYONE},
            auth=None,
            verify=self.verify,
            connect_s=self.connect_s,
            max_connections=self.max_connections,
            transport=self.transport,
            wait_s=self.wait_s,
        )
