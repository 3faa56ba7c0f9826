"""What tests of the extraction share: a queue with its store and a scripted Ollama, and models that answer by rules."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
from fakes import Raw, head
from fakes.vectors import text_vector

from ollama_async_mem import OllamaClient, OllamaConfig, RetryPolicy
from ollama_async_mem.embedding import OllamaEmbedder
from ollama_async_mem.llm import OllamaLLM
from ollama_async_mem.memory.ingest import Ingest
from ollama_async_mem.records import Fact, Scope, Selection, Turn, new_id
from ollama_async_mem.stores import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from anyio.abc import TaskGroup
    from fakes import Hold, ScriptedOllama

    from ollama_async_mem.events import MemoryEvent
    from ollama_async_mem.ports import MemoryStore

CHAT = "POST /api/chat"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
_LINE = re.compile(r"^\[(\d+)\] \([^)]*\) ([^:]*): (.*)$", re.MULTILINE)


def lines(body: dict[str, Any]) -> list[tuple[int, str, str]]:
    """The numbered lines of an extraction request: number, speaker and text."""
    return [(int(number), who, text) for number, who, text in _LINE.findall(asked(body))]


def asked(body: dict[str, Any]) -> str:
    """The lines that an extraction request is about, also where it was asked again."""
    return next(str(m["content"]) for m in reversed(body["messages"]) if _LINE.search(m["content"]))


def told(table: dict[str, str]) -> Callable[[dict[str, Any]], str]:
    """A model that knows what to make of some words: each line with words of the table gives their statement."""

    def answer(body: dict[str, Any]) -> str:
        facts = [
            {"line": number, "quote": quote, "text": statement}
            for number, _, text in lines(body)
            for quote, statement in table.items()
            if quote in text
        ]
        return json.dumps({"facts": facts})

    return answer


def copied(body: dict[str, Any]) -> str:
    """What a model answers that makes a fact of each line that begins with "I "."""
    facts = [
        {"line": number, "quote": text, "text": f"{who} {text.removeprefix('I ')}"}
        for number, who, text in lines(body)
        if text.startswith("I ")
    ]
    return json.dumps({"facts": facts})


def chat_body(text: str, **message: Any) -> dict[str, Any]:
    """A whole answer of `/api/chat`."""
    said = {"role": "assistant", "content": text, **message}
    return {"model": "m", "created_at": "2026-05-01T12:00:00Z", "message": said, "done": True, "done_reason": "stop"}


def held(hold: Hold, answer: Callable[[dict[str, Any]], str]) -> Callable[[Any], Raw]:
    """An answer that comes when the test releases it."""

    def reply(request: Any) -> Raw:
        body = json.dumps(chat_body(answer(request.json))).encode()
        return Raw([hold, head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))}), body])

    return reply


def turn(text: str, who: str = "Mia", *, user: str = "u", day: int = 0, role: str = "user", **fields: Any) -> Turn:
    """A turn that was said some days after the first of May."""
    at = NOON + timedelta(days=day)
    return Turn(id=new_id(), scope=Scope(user), role=role, speaker=who, text=text, at=at, created_at=NOON, **fields)


@dataclass
class Bench:
    """A queue at work, with its store and what it told."""

    store: MemoryStore
    ingest: Ingest
    tasks: TaskGroup
    events: list[MemoryEvent] = field(default_factory=list)

    async def queue(self, *turns: Turn) -> str:
        """Store turns with one job; returns its id."""
        vectors = [text_vector(t.text, 256) for t in turns]
        job_id = await self.store.add_turns(turns, vectors, model="nomic-embed-text:latest", extract=True)
        assert job_id
        self.ingest.wake()
        return job_id

    async def add(self, *turns: Turn) -> str:
        """Store turns and wait until their job was tried."""
        job_id = await self.queue(*turns)
        await self.ingest.settled()
        return job_id

    async def facts(self, user: str = "u", *, holding: bool = True) -> list[Fact]:
        """The facts of a user, oldest first: those that hold, or all."""
        selection = Selection(scope=Scope(user), kinds=("fact",), everything=not holding)
        page = await self.store.list(selection, limit=1000, sort="at")
        return [memory for memory in page.items if isinstance(memory, Fact)]

    async def texts(self, user: str = "u", *, holding: bool = True) -> list[str]:
        """What the facts say."""
        return [fact.text for fact in await self.facts(user, holding=holding)]

    def told_of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def bench(
    server: ScriptedOllama, path: Path, *, chat: ScriptedOllama | None = None, **options: Any
) -> AsyncIterator[Bench]:
    """Run a queue on a store and on a scripted server, or on two: one that embeds and one that chats."""
    once = RetryPolicy(attempts=1)
    events: list[MemoryEvent] = []
    async with (
        OllamaClient(server.url, retry=once, max_connections=128) as client,
        OllamaClient((chat or server).url, retry=once, max_connections=128) as chatting,
        open_store(str(path)) as store,
        OllamaEmbedder("nomic-embed-text", client=client) as embedder,
    ):
        llm = OllamaLLM(OllamaConfig(model="llama3.2", num_ctx=8192), client=chatting)
        ingest = Ingest(store, embedder, llm, **{"on_event": events.append, "idle_s": 0.01, **options})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ingest.run)
            yield Bench(store, ingest, tasks, events)
            tasks.cancel_scope.cancel()
