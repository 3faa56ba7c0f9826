"""Which server a command works with: Ollama where it answers, the embedded engine where it is asked for."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread

from ollama_async_mem.app import Memory
from ollama_async_mem.cli.output import note, pull_bar
from ollama_async_mem.config import load_settings
from ollama_async_mem.connect import connect
from ollama_async_mem.engine import ENGINE_VERSION_SUFFIX, serve
from ollama_async_mem.errors import ConfigError, MissingExtra, OllamaError
from ollama_async_mem.ollama._retry import RetryPolicy
from ollama_async_mem.ollama.client import OllamaClient
from ollama_async_mem.ollama.names import canonical
from ollama_async_mem.stores import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from ollama_async_mem.cli.options import Setup
    from ollama_async_mem.config import Settings
    from ollama_async_mem.memory.behaviour import Behaviour

__all__ = [
    "ENGINE_EMBEDDER",
    "ENGINE_LLM",
    "NoServer",
    "embedder_of",
    "embedding_client",
    "engine_client",
    "ensure",
    "has_engine",
    "is_engine",
    "obstacle",
    "open_client",
    "open_memory",
    "open_offline",
    "open_to_search",
    "settings_of",
]

ENGINE_LLM = "smollm2:135m"
ENGINE_EMBEDDER = "wordllama"


class NoServer(ConfigError):
    """No server answers; says both ways to have one."""

    def __init__(self, url: str) -> None:
        engine = "add --engine to use the embedded engine"
        if not has_engine():
            engine = 'install the embedded engine, pip install "ollama-async-mem[engine]", and add --engine'
        super().__init__(
            f"no Ollama answers at {url}. Either start it (ollama serve; see https://ollama.com/download) "
            f"or name its address with --host or OLLAMA_HOST; or {engine}."
        )


def has_engine() -> bool:
    """Tell whether the packages of the engine are installed."""
    return serve.is_installed()


@asynccontextmanager
async def open_client(setup: Setup) -> AsyncIterator[OllamaClient]:
    """A client of the server that the options name, which answers.

    Raises:
        NoServer: it does not answer.
    """
    async with AsyncExitStack() as stack:
        if setup.engine:
            yield await stack.enter_async_context(engine_client())
            return
        client = await stack.enter_async_context(connect((await settings_of(setup)).llm.without_timeout()))
        if not await client.is_alive():
            raise NoServer(client.url)
        yield client


@asynccontextmanager
async def engine_client() -> AsyncIterator[OllamaClient]:
    """A client of an embedded engine that runs as long as the context.

    Raises:
        MissingExtra: the engine's packages are not installed.
    """
    if not has_engine():
        raise MissingExtra("engine", "the embedded engine")
    from ollama_async_mem.engine.process import running_engine  # noqa: PLC0415 - needs the extra

    async with running_engine() as engine, OllamaClient(engine.url) as client:
        yield client


async def is_engine(client: OllamaClient) -> bool:
    """Tell whether the server is an embedded engine, which has other models than an Ollama."""
    return (await client.version()).endswith(ENGINE_VERSION_SUFFIX)


@asynccontextmanager
async def open_memory(setup: Setup, *, extract: bool | None = False, quiet: bool = False) -> AsyncIterator[Memory]:
    """A memory on the server that the options name, which answers and has the embedder.

    With `extract`, the chat model is there too and facts are extracted while it is open; with None it is there, and
    the settings say whether facts are.

    Raises:
        NoServer: the server does not answer.
        ConfigError: it does not have the embedder of the store.
    """
    async with open_client(setup) as client:
        llm, embedder = setup.llm, setup.embedder
        if await is_engine(client):
            llm, embedder = llm or ENGINE_LLM, embedder or ENGINE_EMBEDDER
            if extract is not False:
                await ensure(client, llm, quiet=quiet)
        embedder = await _embedder(setup, client, embedder)
        own = client if setup.engine else None  # without it each model has the server that the settings name
        behaviour: Behaviour = {} if extract is None else {"extract_here": extract}
        async with Memory(setup.store, llm=llm, embedder=embedder, host=setup.host, client=own, **behaviour) as memory:
            yield memory


async def _embedder(setup: Setup, client: OllamaClient, fallback: str | None) -> str | None:
    """The store's own embedder, unless another was asked for, which the memory then refuses."""
    own = await embedder_of(setup)
    if setup.embedder or own is None:
        return fallback
    async with embedding_client(setup, client) as server:
        has_own = await server.models.has(own)
    if not has_own:
        is_ours = canonical(own) == canonical(ENGINE_EMBEDDER)
        way_out = "add --engine" if is_ours else f"get it with 'ollama-async-mem models pull {own}'"
        raise ConfigError(
            f"{(await settings_of(setup)).store} holds embeddings of {own}, which {server.url} does not have: "
            f"{way_out}, or name another file with --store"
        )
    return own


@asynccontextmanager
async def embedding_client(setup: Setup, client: OllamaClient) -> AsyncIterator[OllamaClient]:
    """A client of the server of the embedder: the one that is given, unless the settings name another for it."""
    settings = await settings_of(setup)
    if setup.engine or settings.embedder.ollama_base_url == settings.llm.ollama_base_url:
        yield client
        return
    async with connect(settings.embedder.without_timeout()) as other:
        yield other


async def settings_of(setup: Setup) -> Settings:
    """The settings that a command works with; reading their file does not block the loop."""
    return await anyio.to_thread.run_sync(
        partial(load_settings, store=setup.store, host=setup.host, llm=setup.llm, embedder=setup.embedder)
    )


async def embedder_of(setup: Setup) -> str | None:
    """The model whose vectors the store holds, None where it holds none yet."""
    async with open_store((await settings_of(setup)).store) as store:
        space = await store.embedding_space()
    return space.model if space else None


@asynccontextmanager
async def open_offline(setup: Setup) -> AsyncIterator[Memory]:
    """A memory for what needs no server: one that is not there is not missed. A store that is named must exist."""
    if setup.store is not None:
        async with open_store(setup.store, create=False):
            pass
    embedder = setup.embedder or await embedder_of(setup)
    async with (
        connect((await settings_of(setup)).embedder.without_timeout(), retry=RetryPolicy(attempts=1)) as client,
        Memory(setup.store, embedder=embedder, client=client, extract_here=False) as memory,
    ):
        yield memory


def open_to_search(setup: Setup) -> AbstractAsyncContextManager[Memory]:
    """A memory for what is better with a server, and works by words alone without one."""
    return open_memory(setup) if setup.engine else open_offline(setup)


async def ensure(client: OllamaClient, model: str, *, quiet: bool = False) -> None:
    """Pull a model with a progress bar unless it is there.

    Raises:
        PullFailed: it could not be pulled.
    """
    if await client.models.has(model):
        return
    if not quiet:
        note(f"pulling {model} ...")
    with pull_bar(model, quiet=quiet) as update:
        await client.models.ensure(model, update)


async def obstacle(client: OllamaClient, *models: str, quiet: bool = False) -> str:
    """Pull what a server lacks of these models; returns what stands in the way, or "" where nothing does."""
    if not await client.is_alive():
        return f"no Ollama at {client.url}"
    try:
        for model in models:
            await ensure(client, model, quiet=quiet)
    except OllamaError as exc:
        return f"Ollama at {client.url} has not all models: {exc}"
    return ""
