"""What tests of the embedder share: one on a scripted server, callers of it, and servers that refuse some texts."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from client.backends import ONCE
from fakes import Hold, Raw, error
from fakes.ollama import default_answer
from fakes.vectors import text_vector
from fakes.wire import steps_of

from ollama_async_mem import EmbedderConfig, OllamaClient, OllamaEmbedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fakes import ScriptedOllama
    from fakes.script import FixedAnswer, Request

    from ollama_async_mem.ports import Vector

EMBED, PACKED = "POST /api/embed", "POST /v1/embeddings"


@asynccontextmanager
async def embedding(
    fake: ScriptedOllama, *, batch: int = 64, in_flight: int = 2, **config: Any
) -> AsyncIterator[OllamaEmbedder]:
    """An embedder without prefixes that tries each request once."""
    async with (
        OllamaClient(fake.url, retry=ONCE) as client,
        OllamaEmbedder(
            EmbedderConfig(model="m", **config), client=client, batch=batch, in_flight=in_flight
        ) as embedder,
    ):
        yield embedder


def sent(fake: ScriptedOllama) -> list[list[str]]:
    """The texts of each request so far."""
    bodies = [request.json for request in fake.requests if request.route in (EMBED, PACKED)]
    return [body["input"] for body in bodies if body["input"]]


def hold(fake: ScriptedOllama, count: int) -> Hold:
    """Have the next requests wait."""
    held = Hold()

    def answer(request: Request) -> FixedAnswer:
        reply = default_answer(request, fake.settings)
        return Raw([held, *steps_of(reply, head_only=False)])

    fake.enqueue(EMBED, *[answer] * count)
    return held


def refuse(fake: ScriptedOllama, is_bad: Callable[[str], bool], words: str, status: int = 400) -> None:
    """Have the server refuse whatever has a bad text in it."""

    def answer(request: Request) -> FixedAnswer:
        if any(map(is_bad, request.json["input"])):
            return error(status, words)
        return default_answer(request, fake.settings)

    for route in (EMBED, PACKED):
        fake.enqueue(route, answer, repeat=True)


class Caller:
    """Keeps what one call returned or raised; `await` it in a task group."""

    def __init__(self, embedder: OllamaEmbedder, *texts: str, is_query: bool = False) -> None:
        self._embedder = embedder
        self._texts = texts
        self._is_query = is_query
        self.vectors: list[Vector] = []
        self.failure: Exception | None = None

    async def __call__(self) -> None:
        try:
            self.vectors = await self._embedder.embed_batch(self._texts, "search" if self._is_query else "add")
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            self.failure = exc

    @property
    def is_right(self) -> bool:
        """Whether it has the vectors of its own texts."""
        wanted = [text_vector(text, 256) for text in self._texts]
        return len(self.vectors) == len(wanted) and all(
            abs(vector - right).max() < 1e-5 for vector, right in zip(self.vectors, wanted, strict=True)
        )
