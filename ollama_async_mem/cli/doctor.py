"""`doctor`: looks at server, models and store, and says what to do about what it finds. It changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from cyclopts import App
from httpx import URL

from ollama_async_mem.cli.findings import Finding
from ollama_async_mem.cli.options import Json, Setup
from ollama_async_mem.cli.output import plural, say, show_json
from ollama_async_mem.cli.room import free_bytes, need_of, room_findings
from ollama_async_mem.cli.session import (
    ENGINE_EMBEDDER,
    ENGINE_LLM,
    embedding_client,
    is_engine,
    open_client,
    settings_of,
)
from ollama_async_mem.errors import ConfigError, MissingExtra, OllamaAsyncMemError
from ollama_async_mem.ollama._context import DEFAULT_CONTEXT, own_context
from ollama_async_mem.ollama.names import canonical
from ollama_async_mem.server.settings import is_loopback
from ollama_async_mem.stores import open_store, sqlite_path

if TYPE_CHECKING:
    from ollama_async_mem.cli.findings import Tell
    from ollama_async_mem.config import Settings
    from ollama_async_mem.ollama.client import OllamaClient
    from ollama_async_mem.ollama.schema import RunningModel
    from ollama_async_mem.ports import MemoryStore
    from ollama_async_mem.records import EmbeddingSpace

__all__ = ["examination"]

_DEFAULT = Setup()
_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}
_OLDEST = (0, 6)
_EXTRACTION_TOKENS = 4_096
"""A request for facts: instructions, a portion of conversation, and the answer."""
_TAKES = f"extracting facts takes {_EXTRACTION_TOKENS:,}"
_MOST_SHOWN = 5

examination = App()


@examination.command
async def doctor(*, json: Json = False, setup: Setup = _DEFAULT) -> int:
    """Check server, models and store, and say what to do. The exit code is 1 where something is wrong."""
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not json:
            _show(finding)

    try:
        settings = await settings_of(setup)
    except (ConfigError, MissingExtra) as exc:
        tell(Finding("settings", "error", str(exc)))
    else:
        space = await _examine_store(settings.store, tell)
        await _examine_server(setup, settings, space, tell)
    is_well = all(finding.status != "error" for finding in found)
    if json:
        show_json({"well": is_well, "findings": found})
    return int(not is_well)


def _show(finding: Finding) -> None:
    say(f"{finding.status:<8} ", style=_STYLES[finding.status], end="")
    say(f"{finding.what}: {finding.message}")
    if finding.advice:
        say(f"{'':<9}{finding.advice}", style="bold")


async def _examine_store(url: str, tell: Tell) -> EmbeddingSpace | None:
    """Look at a store that is there; returns whose vectors it holds."""
    try:
        if await _is_missing(url):
            tell(Finding("store", "ok", f"{url} is not there yet; the first 'ollama-async-mem add' makes it"))
            return None
        async with open_store(url, create=False) as store:
            await _examine_open_store(store, tell)
            return await store.embedding_space()
    except OllamaAsyncMemError as exc:
        tell(Finding("store", "error", str(exc)))
    return None


async def _is_missing(url: str) -> bool:
    """Tell whether a store is a file that does not exist."""
    path = None if "://" in url and not url.startswith("sqlite:") else sqlite_path(url)
    return path is not None and not await (await anyio.Path(path).expanduser()).exists()


async def _examine_open_store(store: MemoryStore, tell: Tell) -> None:
    held = await store.statistics()
    holds = f"{plural(held.turns, 'turn')}, {plural(held.facts, 'fact')}, schema {held.schema_version}"
    tell(Finding("store", "ok", f"{store.location}, {holds}"))
    wrong = await store.check()
    for what in wrong[:_MOST_SHOWN]:
        advice = "copy it to a new file with 'ollama-async-mem store copy', or go back to a backup"
        tell(Finding("integrity", "error", what, advice))
    if not wrong:
        tell(Finding("integrity", "ok", "rows, vectors, indexes and links fit"))
    if held.jobs_dead:
        given_up = f"the facts of {plural(held.jobs_dead, 'job')} could not be extracted"
        tell(Finding("jobs", "warning", given_up, "'ollama-async-mem flush' says why; a larger model finds more"))
    if held.jobs_queued:
        waiting = f"{plural(held.jobs_queued, 'job')} waiting; 'ollama-async-mem flush' works them off"
        tell(Finding("jobs", "ok", waiting))


async def _examine_server(setup: Setup, settings: Settings, space: EmbeddingSpace | None, tell: Tell) -> None:
    try:
        async with open_client(setup) as client:
            tell(_version_finding(client.url, await client.version()))
            llm, embedder = settings.llm.model, settings.embedder.model
            if await is_engine(client):
                llm, embedder = setup.llm or ENGINE_LLM, setup.embedder or ENGINE_EMBEDDER
            if space and not setup.embedder:  # the commands use the embedder of the store
                embedder = space.model
            dimensions, num_ctx = settings.embedder.embedding_dims, settings.llm.num_ctx
            async with embedding_client(setup, client) as embeds:
                tell(await _embedder_finding(embeds, embedder, dimensions, space))
            tell(await _chat_finding(client, llm, num_ctx))
            models = {canonical(llm): num_ctx or 0, canonical(embedder): 0}
            running = {canonical(model.name): model for model in await client.models.running()}
            if (loaded := running.get(canonical(llm))) and not num_ctx:
                _examine_context(loaded, tell)
            _examine_gpu([running[name] for name in models if name in running], tell)
            await _examine_room(client, {name: models[name] for name in models if name not in running}, tell)
    except OllamaAsyncMemError as exc:
        tell(Finding("server", "error", str(exc)))


def _version_finding(url: str, version: str) -> Finding:
    number = tuple(int(part) for part in version.partition("+")[0].partition("-")[0].split(".")[:2] if part.isdecimal())
    if number < _OLDEST and number != (0, 0):  # a server that was built by hand calls itself 0.0.0
        return Finding("server", "warning", f"{url} is Ollama {version}", "update it: https://ollama.com/download")
    return Finding("server", "ok", f"{url}, version {version}")


def _missing(what: str, model: str, url: str) -> Finding:
    return Finding(what, "error", f"{url} does not have {model}", f"get it: ollama-async-mem models pull {model}")


async def _embedder_finding(
    client: OllamaClient, embedder: str, dimensions: int | None, space: EmbeddingSpace | None
) -> Finding:
    """Compare the vectors that the model makes with those that the store holds."""
    if not await client.models.has(embedder):
        return _missing("embedder", embedder, client.url)
    length = dimensions or await client.models.embedding_length(embedder)
    made = f"{embedder} makes vectors of {length:,} dimensions"
    if space is None or (canonical(space.model), space.dimension) == (canonical(embedder), length):
        return Finding("embedder", "ok", made)
    holds = f"the store holds those of {space.model} with {space.dimension:,}"
    return Finding("embedder", "error", f"{made}, {holds}", f"use --embedder {space.model}, or another --store")


async def _chat_finding(client: OllamaClient, llm: str, num_ctx: int | None) -> Finding:
    """Compare the context with what a request for facts takes, of which the server would cut what is too much."""
    if not await client.models.has(llm):
        return _missing("chat model", llm, client.url)
    shown = await client.show(llm)
    trained, own = shown.context_length, own_context(shown.parameters)
    if 0 < trained < _EXTRACTION_TOKENS:
        message = f"{llm} has a context of {trained:,} tokens, {_TAKES}"
        return Finding("chat model", "warning", message, "choose a model with a longer context: --llm NAME")
    if num_ctx and num_ctx < _EXTRACTION_TOKENS:
        message = f"llm.num_ctx is {num_ctx:,} tokens, {_TAKES}"
        return Finding("chat model", "warning", message, "raise it in the settings, or leave it out")
    if not num_ctx and 0 < own < _EXTRACTION_TOKENS:
        message = f"{llm} is set to a context of {own:,} tokens by its Modelfile, {_TAKES}"
        return Finding("chat model", "warning", message, f"set llm.num_ctx to {_EXTRACTION_TOKENS} in the settings")
    size = f"a context of up to {trained:,} tokens" if trained else "a context of unknown length"
    return Finding("chat model", "ok", f"{llm} has {size}")


def _examine_context(model: RunningModel, tell: Tell) -> None:
    """Short prompts are sent without a context, so that the one a model is loaded with must do."""
    if 0 < model.context_length < _EXTRACTION_TOKENS:
        message = f"{model.name} is loaded with one of {model.context_length:,} tokens, {_TAKES}"
        advice = f"set llm.num_ctx to {_EXTRACTION_TOKENS} in the settings, or OLLAMA_CONTEXT_LENGTH where Ollama runs"
        tell(Finding("context", "warning", message, advice))


def _examine_gpu(models: list[RunningModel], tell: Tell) -> None:
    """How much of the models that are in use the GPU holds."""
    for model in models:
        message = f"{model.gpu_share:.0%} of {model.name} is in the GPU's memory"
        if model.gpu_share < 1:
            advice = "what is not there is slow: use a smaller model or quantization, or a shorter context (num_ctx)"
            tell(Finding("GPU", "warning", message, advice))
        else:
            tell(Finding("GPU", "ok", message))


async def _examine_room(client: OllamaClient, contexts: dict[str, int], tell: Tell) -> None:
    """Whether the models that are not loaded will fit; the server says how large they are, but not how much it has."""
    installed = {canonical(info.name): info for info in await client.models.installed()}
    needs = []
    for name, num_ctx in contexts.items():
        if (info := installed.get(name)) and info.size and not info.remote_host:
            shown = await client.show(info.name)
            context = num_ctx or own_context(shown.parameters) or DEFAULT_CONTEXT
            needs.append(need_of(info, shown, min(context, shown.context_length or context)))
    host = URL(client.url).host
    free = await anyio.to_thread.run_sync(free_bytes) if is_loopback(host) else None
    for finding in room_findings(needs, free, host):
        tell(finding)
