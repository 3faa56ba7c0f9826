"""Which models a server has, getting the ones it lacks, and loading and unloading them."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

import anyio
import msgspec
from anyio.lowlevel import current_token

from ollama_async_mem.errors import ConfigError, ModelNotFound, OllamaError, ProtocolError, PullFailed, StatusError

from ._context import DEFAULT_CONTEXT, ContextSize, context_for, own_context, warn_if_cut
from ._requests import named
from .names import canonical, display

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from .client import OllamaClient
    from .schema import ModelInfo, PullProgress, RunningModel

__all__ = ["Layer", "ModelManager", "PullState", "summed"]


_INSTRUCTED_S = 300.0  # how long a model's own instructions are taken for unchanged
_NO_SUCH_MODEL = "file does not exist"  # what a registry's 404 becomes in the server's words


class PullState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a pull is: bytes over all layers that are known so far, speed of this run, and the time that is left."""

    model: str
    status: str
    completed: int = 0
    total: int = 0
    bytes_per_s: float = 0.0

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the layers that are known are there, None where that cannot be told yet."""
        return (self.total - self.completed) / self.bytes_per_s if self.bytes_per_s > 0 else None


class _Caller:
    """One who waits for a pull. When its `on_progress` fails, it leaves with that failure, and nobody else does."""

    def __init__(self, on_progress: Callable[[PullState], None] | None) -> None:
        self.scope = anyio.CancelScope()
        self.failure: Exception | None = None
        self._on_progress = on_progress

    def tell(self, state: PullState) -> None:
        if self._on_progress and not self.failure:
            try:
                self._on_progress(state)
            except Exception as exc:  # noqa: BLE001 - it is raised where the function came from
                self.failure = exc
                self.scope.cancel()


class _Pull:
    """A pull that several callers wait for. One of them does it; when that one leaves, the next takes over."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.callers: list[_Caller] = []
        self.failure: OllamaError | None = None


class ModelManager:
    """The models of one server, reached as `client.models`."""

    def __init__(self, client: OllamaClient) -> None:
        self._client = client
        self._pulls: dict[tuple[object, str], _Pull] = {}  # locks cannot be shared by event loops: each has its own
        self._contexts: dict[str, ContextSize] = {}
        self._thinking: dict[str, bool] = {}
        self._instructions: dict[str, tuple[str, float]] = {}
        self._sizing: dict[object, anyio.Lock] = {}

    async def installed(self) -> list[ModelInfo]:
        """List the installed models, newest first."""
        return await self._client.tags()

    async def running(self) -> list[RunningModel]:
        """List the loaded models, with their share of GPU memory and when they are unloaded."""
        return await self._client.ps()

    async def has(self, model: str) -> bool:
        """Tell whether a model is installed; 'x' and 'x:latest' are one.

        One that runs in the cloud ('x:cloud', 'x:120b-cloud') needs no installing: it counts as installed.

        Raises:
            ConfigError: that is no name.
        """
        wanted = canonical(named(model))
        if wanted.endswith((":cloud", "-cloud")):
            return True
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
        the last of them is; the server keeps what it has and goes on from there the next time. What `on_progress`
        raises ends this call, and not the pull that others wait for.

        Raises:
            ConfigError: that is no name, or `on_missing` is another word.
            PullFailed: the model does not exist, which lists the tags of it that are installed, or the download failed.
            ModelNotFound: it is not there, and `on_missing` is "error"; lists the tags that are.
        """
        if on_missing not in ("pull", "error"):
            raise ConfigError(f"on_missing is 'pull' or 'error', got {on_missing!r}")
        if await self.has(model):
            return False
        if on_missing == "error":
            raise ModelNotFound(404, await self._missing(model))
        await self._pull_together(model, _Caller(on_progress))
        return True

    async def _pull_together(self, model: str, caller: _Caller) -> None:
        key = current_token(), canonical(model)
        pull = self._pulls.setdefault(key, _Pull())
        pull.callers.append(caller)
        try:
            with caller.scope:
                async with pull.lock:
                    await self._pull(model, pull)
        finally:
            pull.callers.remove(caller)
            if not pull.callers:
                del self._pulls[key]
        if caller.failure:
            raise caller.failure

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

    async def can_think(self, model: str) -> bool:
        """Tell whether a model thinks before it answers, so that it must be told not to; the server is asked once."""
        name = canonical(named(model))
        if name not in self._thinking:
            self._thinking[name] = "thinking" in (await self._client.show(model)).capabilities
        return self._thinking[name]

    async def instructions(self, model: str) -> str:
        """Return the instructions of a model's own, its SYSTEM; the server is asked once in five minutes.

        It leaves them out of a conversation that begins with other instructions (server/routes.go, ChatHandler).
        """
        name = canonical(named(model))
        text, until = self._instructions.get(name, ("", 0.0))
        if time.monotonic() >= until:
            text = (await self._client.show(model)).system
            self._instructions[name] = text, time.monotonic() + _INSTRUCTED_S
        return text

    async def context_size(self, model: str, needed_tokens: int) -> int | None:
        """Tell which `num_ctx` to send for a prompt and its answer; None is to send none.

        Any other `num_ctx` than the one a model is loaded with reloads it for everybody, and so does sending none where
        it was loaded with one. So as long as 4,096 tokens are enough, which every server gives, none is sent. The first
        prompt that needs more pins a number for the model, and from then on that is sent with all its requests; it
        grows when a prompt needs yet more, never shrinks, and is at most what the model was trained for. It is the
        context that the model is loaded with if that is large enough, else its Modelfile's, else a power of two.
        The server is asked (/api/ps, /api/show) only when the pin is to grow. A prompt that cannot fit is logged as
        a warning. The pins are those of this client.
        """
        name = canonical(named(model))
        if self._is_short_of(name, needed_tokens):
            async with self._sizing.setdefault(current_token(), anyio.Lock()):
                if self._is_short_of(name, needed_tokens):  # whoever held the lock before may have settled it
                    sized = await self._sized(model, needed_tokens)
                    if self._is_short_of(name, needed_tokens):  # nor may what another loop has settled shrink
                        self._contexts[name] = sized
        num_ctx = self._contexts.get(name, ContextSize()).num_ctx
        warn_if_cut(model, needed_tokens, max(num_ctx, DEFAULT_CONTEXT))
        return num_ctx or None

    def _is_short_of(self, name: str, needed_tokens: int) -> bool:
        known = self._contexts.get(name, ContextSize())
        return needed_tokens > max(known.num_ctx, DEFAULT_CONTEXT) and not known.is_longest

    async def _sized(self, model: str, needed_tokens: int) -> ContextSize:
        loaded = own = longest = 0
        with suppress(StatusError, ProtocolError):  # where the server does not say, what is needed alone counts
            loaded = next((m.context_length for m in await self.running() if canonical(m.name) == canonical(model)), 0)
            shown = await self._client.show(model)
            own, longest = own_context(shown.parameters), shown.context_length
        return ContextSize(context_for(needed_tokens, loaded=loaded, own=own, longest=longest), longest)

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
        layers: dict[str, Layer] = {}
        began = time.monotonic()
        try:
            async with self._client.stream_pull(model) as progress:
                async for line in progress:
                    state = summed(model, line, layers, time.monotonic() - began)
                    for caller in pull.callers:
                        caller.tell(state)
        except OllamaError as exc:
            pull.failure = await self._explained(exc, model)
            raise pull.failure from exc.__cause__

    async def _explained(self, failure: OllamaError, model: str) -> OllamaError:
        """Add the tags that are installed to the failure of a pull whose tag does not exist."""
        reason = str(failure).partition(" failed: ")[2]
        if isinstance(failure, PullFailed) and _NO_SUCH_MODEL in reason:
            with suppress(OllamaError):  # the failure of the pull is what counts
                return PullFailed(model, f"{reason}{await self._installed_tags(model)}")
        return failure

    async def _missing(self, model: str) -> str:
        return f"model {model!r} is not installed{await self._installed_tags(model)}. Get it with: ollama pull {model}"

    async def _installed_tags(self, model: str) -> str:
        base = display(model).partition(":")[0]
        tags = [info.name for info in await self.installed() if display(info.name).partition(":")[0] == base]
        return f"; installed of it: {', '.join(tags)}" if tags else ""


class Layer(NamedTuple):
    """The first and the latest status line of a layer; what the first has was there before, from an earlier pull."""

    first: PullProgress
    latest: PullProgress


def summed(model: str, line: PullProgress, layers: dict[str, Layer], elapsed_s: float) -> PullState:
    """Add a status line to those of all layers. `layers` is what came before, and is kept up to date."""
    if line.digest and line.total:
        layers[line.digest] = Layer(layers[line.digest].first if line.digest in layers else line, line)
    completed = sum(layer.latest.completed for layer in layers.values())
    before = sum(layer.first.completed for layer in layers.values())
    return PullState(
        model=model,
        status=line.status,
        completed=completed,
        total=sum(layer.latest.total for layer in layers.values()),
        bytes_per_s=max(completed - before, 0) / elapsed_s if elapsed_s > 0 else 0.0,
    )
