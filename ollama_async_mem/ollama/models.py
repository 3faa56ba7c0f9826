"""Which models a server has, and getting the ones it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .names import canonical

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import OllamaClient
    from .schema import ModelInfo, PullProgress

__all__ = ["ModelManager"]


class ModelManager:
    """The models of one server, reached as `client.models`."""

    def __init__(self, client: OllamaClient) -> None:
        self._client = client

    async def installed(self) -> list[ModelInfo]:
        """List the installed models, newest first."""
        return await self._client.tags()

    async def has(self, model: str) -> bool:
        """Tell whether a model is installed; 'x' and 'x:latest' are one."""
        wanted = canonical(model)
        return any(canonical(info.name) == wanted for info in await self.installed())

    async def ensure(self, model: str, on_progress: Callable[[PullProgress], None] | None = None) -> bool:
        """Pull a model unless it is there; tells whether it had to be pulled.

        Raises:
            PullFailed: the model does not exist, or the download failed.
        """
        if await self.has(model):
            return False
        async with self._client.stream_pull(model) as progress:
            async for line in progress:
                if on_progress:
                    on_progress(line)
        return True
