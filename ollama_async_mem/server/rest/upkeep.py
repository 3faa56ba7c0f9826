"""What the server as a whole does and holds: statistics, jobs and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.counts import MemoryStatistics
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.llm import OllamaLLM
from ollama_async_mem.records import JobStatus
from ollama_async_mem.server.errors import Forbidden
from ollama_async_mem.server.rest.routing import Route
from ollama_async_mem.server.rest.shapes import (
    ChangeConfiguration,
    Configuration,
    ListJobs,
    ModelSettings,
    Retried,
    Who,
)

if TYPE_CHECKING:
    from ollama_async_mem.config import OllamaConfig
    from ollama_async_mem.server.rest.routing import Call

__all__ = ["ROUTES"]


async def statistics(call: Call) -> MemoryStatistics:
    """Count what is stored, and what became of the extraction; for keys that are bound to nobody."""
    call.require_all()
    return await call.memory.statistics()


async def jobs(call: Call, asked: ListJobs) -> list[JobStatus]:
    """List the extractions that wait or were given up, oldest first; for keys that are bound to nobody."""
    call.require_all()
    return await call.memory.store.unfinished_jobs(limit=asked.limit)


async def retry(call: Call) -> Retried:
    """Let extraction try at once what it gave up, or put off as the model was away."""
    call.require_all()
    call.principal.require_write()
    return Retried(await call.memory.retry_extraction())


async def configuration(call: Call) -> Configuration:
    """Tell what the server works with, and what the key that came with the request allows."""
    who, space = call.principal, await call.memory.store.embedding_space()
    llm = call.memory.llm
    return Configuration(
        version=call.server.version,
        you=Who(**msgspec.structs.asdict(who)),
        llm=_settings(llm.config) if isinstance(llm, OllamaLLM) else None,
        embedder=space.model if space else None,
        may_change=call.server.allow_config and who.admin,
    )


async def change_configuration(call: Call, asked: ChangeConfiguration) -> Configuration:
    """Change how the chat model answers, until the server ends; needs an admin key and `--allow-config`."""
    call.principal.require_admin()
    if not call.server.allow_config:
        raise Forbidden("settings are fixed while this server runs: start it with --allow-config")
    llm = call.memory.llm
    if not isinstance(llm, OllamaLLM):
        raise ConfigError("this memory has no chat model of an Ollama server whose settings could be changed")
    changes = {name: value for name, value in msgspec.structs.asdict(asked.llm).items() if value is not msgspec.UNSET}
    llm.config = msgspec.structs.replace(llm.config, **changes)
    return await configuration(call)


def _settings(config: OllamaConfig) -> ModelSettings:
    return ModelSettings(**{name: getattr(config, name) for name in ModelSettings.__struct_fields__})


ROUTES = (
    Route("GET", "/statistics", statistics, returns=MemoryStatistics),
    Route("GET", "/jobs", jobs, ListJobs, list[JobStatus]),
    Route("POST", "/jobs/retry", retry, returns=Retried),
    Route("GET", "/configuration", configuration, returns=Configuration),
    Route(
        "PATCH",
        "/configuration",
        change_configuration,
        ChangeConfiguration,
        Configuration,
        example=ChangeConfiguration(llm=ModelSettings(model="llama3.2", temperature=0.2)),
    ),
)
