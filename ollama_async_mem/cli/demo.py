"""The demo: a real model, a real embedder and a real database, from nothing to an answer."""

from __future__ import annotations

import contextlib
import time
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import msgspec
from cyclopts import App, Parameter

from ollama_async_mem.app import Memory
from ollama_async_mem.cli.chat import stream_answer
from ollama_async_mem.cli.options import Setup, Who
from ollama_async_mem.cli.output import note, say, show_hits
from ollama_async_mem.cli.session import (
    ENGINE_EMBEDDER,
    ENGINE_LLM,
    engine_client,
    ensure,
    has_engine,
    is_engine,
    obstacle,
)
from ollama_async_mem.config import DEFAULT_EMBEDDER, DEFAULT_LLM, default_store
from ollama_async_mem.errors import ConfigError, RecordNotFound
from ollama_async_mem.llm import OllamaLLM
from ollama_async_mem.ollama._retry import RetryPolicy
from ollama_async_mem.ollama.client import OllamaClient
from ollama_async_mem.records import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["demonstration"]

_USER = Who(user="demo")
_SEARCHES = ("who is allergic, and to what?", "when does the exhibition open?", "marathon training and the knee")
_QUESTION = "What is the name of the dog?"
_ANSWER = {"temperature": 0, "top_p": None, "top_k": None, "max_tokens": 100}
_RECALL_TOKENS = 200  # little to read for a small model on a CPU

demonstration = App()


@demonstration.command
async def demo(
    *,
    store: Annotated[str | None, Parameter(env_var=())] = None,
    engine: Annotated[bool, Parameter(negative="")] = False,
    host: str | None = None,
) -> None:
    """Show the whole of it on a bundled conversation: add, search, and an answer that remembers.

    Uses Ollama where it answers and has, or can pull, the default models; else the embedded engine.

    Args:
        store: A new file for the demo's memories. Default: a file of its own in your data folder, emptied each time.
        engine: Use the embedded engine also where Ollama answers.
        host: The Ollama server. Default: OLLAMA_HOST, else http://127.0.0.1:11434.
    """
    if store is not None and await anyio.Path(store).exists():
        raise ConfigError(f"{store} exists already: name a new file for the demo")
    async with (
        _server(Setup(host=host, engine=engine)) as (client, llm, embedder),
        Memory(
            store or _own_store(embedder),
            llm=OllamaLLM({"model": llm, **_ANSWER}, client=client),
            embedder=embedder,
            client=client,
            config={},  # whatever else is set up, the demo is the same
            extract_here=False,
        ) as memory,
    ):
        await _forget(memory)
        await _add(memory)
        await _search(memory)
        say(f"\n? {_QUESTION}", style="bold")
        await stream_answer(memory, [Message(content=_QUESTION)], _USER, max_tokens=_RECALL_TOKENS, remember=False)
        _what_next(memory, with_engine=llm == ENGINE_LLM)


def _own_store(embedder: str) -> Path:
    """The demo's own file; one for each embedder, since a store holds the vectors of one."""
    return Path(default_store()).with_name(f"demo-{embedder}.db")


async def _forget(memory: Memory) -> None:
    """Delete what an earlier run has stored."""
    while items := (await memory.list(user_id=_USER.user)).items:
        async with anyio.create_task_group() as tasks:
            for item in items:
                tasks.start_soon(_delete, memory, item.id)


async def _delete(memory: Memory, memory_id: str) -> None:
    with contextlib.suppress(RecordNotFound):  # another demo was faster
        await memory.delete(memory_id)


@asynccontextmanager
async def _server(setup: Setup) -> AsyncIterator[tuple[OllamaClient, str, str]]:
    """A server with its chat model and embedder: Ollama if nothing stands in the way, else the engine."""
    async with AsyncExitStack() as stack:
        reason = "the engine was asked for"
        if not setup.engine:
            client = await stack.enter_async_context(OllamaClient(setup.host, retry=RetryPolicy(attempts=1)))
            reason, llm, embedder = await _choice(client)
            if not reason:
                note(f"using Ollama at {client.url}")
                yield client, llm, embedder
                return
        if not has_engine():
            raise ConfigError(
                f"{reason}, and the embedded engine is not installed. Either start Ollama (ollama serve; see "
                'https://ollama.com/download), or pip install "ollama-async-mem[engine]"'
            )
        note(f"{reason}: starting the embedded engine")
        client = await stack.enter_async_context(engine_client())
        await ensure(client, ENGINE_LLM)
        yield client, ENGINE_LLM, ENGINE_EMBEDDER


async def _choice(client: OllamaClient) -> tuple[str, str, str]:
    """What stands in the way of using a server, "" where nothing does, and the models to use with it."""
    llm, embedder = DEFAULT_LLM, DEFAULT_EMBEDDER
    if await client.is_alive() and await is_engine(client):
        llm, embedder = ENGINE_LLM, ENGINE_EMBEDDER
    return await obstacle(client, embedder, llm), llm, embedder


async def _add(memory: Memory) -> None:
    sessions = _conversation()
    began = time.perf_counter()
    for run_id, messages in sessions.items():
        await memory.add(messages, user_id=_USER.user, run_id=run_id, infer=False)
    took_ms = (time.perf_counter() - began) * 1e3
    turns = sum(map(len, sessions.values()))
    first, last = (next(iter(sessions.values()))[0], list(sessions.values())[-1][-1])
    say(
        f"\nStored {turns} turns of {len(sessions)} conversations between Nora and Tomás, "
        f"{first['timestamp'][:10]} to {last['timestamp'][:10]}, in {took_ms:.0f} ms: "
        "on disk, embedded and searchable."
    )


def _conversation() -> dict[str, list[dict[str, Any]]]:
    """The bundled messages by session."""
    text = files("ollama_async_mem.cli").joinpath("conversation.jsonl").read_bytes()
    lines = msgspec.json.Decoder(dict[str, Any]).decode_lines(text)
    return {run_id: list(messages) for run_id, messages in groupby(lines, key=itemgetter("run_id"))}


async def _search(memory: Memory) -> None:
    for query in _SEARCHES:
        began = time.perf_counter()
        found = await memory.search(query, user_id=_USER.user, limit=3)
        took_ms = (time.perf_counter() - began) * 1e3
        say(f"\n? {query}", style="bold", end="")
        say(f"  ({took_ms:.0f} ms)", style="dim")
        show_hits(found.hits, ids=False)


def _what_next(memory: Memory, *, with_engine: bool) -> None:
    engine = " --engine" if with_engine else ""
    where = f"--user {_USER.user} --store {memory.store.location}{engine}"
    say(f"\nThe database is {memory.store.location}", style="dim")
    say("What to type next:", style="dim")
    say(f'  ollama-async-mem search "where does Nora work?" {where}')
    say(f"  ollama-async-mem chat {where}")
    say(f'  ollama-async-mem add "I like my tea without sugar" --user you --store my.db{engine}')
