"""Which models a server has, getting the ones it lacks, and loading and unloading them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import anyio
import msgspec

from ollama_async_mem.errors import ModelNotFound, OllamaError

from .names import canonical, display

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from .client import OllamaClient
    from .schema import ModelInfo, PullProgress, RunningModel

__all__ = ["ModelManager", "PullState", "summed"]


class PullState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a pull is: bytes over all layers that are known so far, speed, and the time that is left."""

    model: str
    status: str
    completed: int = 0
    total: int = 0
    bytes_per_s: float = 0.0

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the layers that are known are there, None where that cannot be told yet."""
        return (self.total - self.completed) / self.bytes_per_s if self.bytes_per_s > 0 else None


class _Pull:
    """A pull that several callers wait for. One of them does it; when that one leaves, the next takes over."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.listeners: list[Callable[[PullState], None]] = []
        self.callers = 0
        self.failure: OllamaError | None = None


class ModelManager:
    """The models of one server, reached as `client.models`."""

    def __init__(self, client: OllamaClient) -> None:
        self._client = client
        self._pulls: dict[str, _Pull] = {}

    async def installed(self) -> list[ModelInfo]:
        """List the installed models, newest first."""
        return await self._client.tags()

    async def running(self) -> list[RunningModel]:
        """List the loaded models, with their share of GPU memory and when they are unloaded."""
        return await self._client.ps()

    async def has(self, model: str) -> bool:
        """Tell whether a model is installed; 'x' and 'x:latest' are one."""
        wanted = canonical(model)
        return any(canonical(info.name) == wanted for info in await self.installed())

    async def ensure(
        self,
        model: str,
        on_progress: Callable[[PullState], None] | None = None,
        *,
        on_missing: Literal["pull", "error"] = "pull",
    ) -> bool:
        """Pull a model unless it is there; tells whether it had to be pulled.

        All who ask for one model at the same time share one pull, and each gets its progress. It is cancelled when
        the last of them is; the server keeps what it has and goes on from there the next time.

        Raises:
            PullFailed: the model does not exist, or the download failed.
            ModelNotFound: it is not there, and `on_missing` is "error"; lists the tags that are.
        """
        if await self.has(model):
            return False
        if on_missing == "error":
            raise ModelNotFound(404, await self._missing(model))
        pull = self._pulls.setdefault(canonical(model), _Pull())
        pull.callers += 1
        if on_progress:
            pull.listeners.append(on_progress)
        try:
            async with pull.lock:
                await self._pull(model, pull)
        finally:
            pull.callers -= 1
            if on_progress:
                pull.listeners.remove(on_progress)
            if not pull.callers:
                self._pulls.pop(canonical(model), None)
        return True

    async def load(self, model: str, *, keep_alive: float | str | timedelta | None = None) -> None:
        """Load a model, so that its first answer does not wait for that.

        Raises:
            ModelNotFound: the server does not have it.
        """
        await self._touch(model, keep_alive)

    async def unload(self, model: str) -> None:
        """Unload a model once nobody uses it.

        Raises:
            ModelNotFound: the server does not have it.
        """
        await self._touch(model, 0)

    async def embedding_length(self, model: str) -> int:
        """Tell the length of a model's vectors: from what the server says, else by embedding a word."""
        shown = await self._client.show(model)
        return shown.embedding_length or len((await self._client.embed(model, "length")).embeddings[0])

    async def _touch(self, model: str, keep_alive: float | str | timedelta | None) -> None:
        """Ask for nothing, which loads the model: the way for those that only embed is another."""
        capabilities = (await self._client.show(model)).capabilities
        if "embedding" in capabilities and "completion" not in capabilities:
            await self._client.embed(model, [], keep_alive=keep_alive)
        else:
            await self._client.generate(model, "", keep_alive=keep_alive)

    async def _pull(self, model: str, pull: _Pull) -> None:
        if pull.failure:
            raise pull.failure
        if await self.has(model):  # whoever held the lock before has pulled it
            return
        layers: dict[str, PullProgress] = {}
        began = time.monotonic()
        try:
            async with self._client.stream_pull(model) as progress:
                async for line in progress:
                    state = summed(model, line, layers, time.monotonic() - began)
                    for listener in pull.listeners:
                        listener(state)
        except OllamaError as exc:
            pull.failure = exc
            raise

    async def _missing(self, model: str) -> str:
        base = display(model).partition(":")[0]
        tags = [info.name for info in await self.installed() if display(info.name).partition(":")[0] == base]
        others = f"; installed of it: {', '.join(tags)}" if tags else ""
        return f"model {model!r} is not installed{others}. Get it with: ollama pull {model}"


def summed(model: str, line: PullProgress, layers: dict[str, PullProgress], elapsed_s: float) -> PullState:
    """Add a status line to those of all layers. `layers` is what came before, and is kept up to date."""
    if line.digest and line.total:
        layers[line.digest] = line
    completed = sum(layer.completed for layer in layers.values())
    return PullState(
        model=model,
        status=line.status,
        completed=completed,
        total=sum(layer.total for layer in layers.values()),
        bytes_per_s=completed / elapsed_s if elapsed_s > 0 else 0.0,
    )
