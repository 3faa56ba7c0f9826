"""`OllamaEmbedder`: texts to vectors, where everyone who embeds at the same time shares a request."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
import numpy as np

from ollama_async_mem.config import EmbedderConfig
from ollama_async_mem.connect import connect
from ollama_async_mem.errors import ConfigError, OllamaError, StatusError
from ollama_async_mem.ollama._requests import checked_texts
from ollama_async_mem.ollama.names import canonical, display

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from ollama_async_mem.ollama.client import OllamaClient
    from ollama_async_mem.ports import Vector

__all__ = ["OllamaEmbedder", "prefixes"]

# (family, query prefix, document prefix), from the models' own cards.
_PREFIXES = (
    ("nomic-embed-text", "search_query: ", "search_document: "),
    ("mxbai-embed", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-m3", "", ""),
    ("bge-", "Represent this sentence for searching relevant passages: ", ""),
    ("snowflake-arctic-embed", "query: ", ""),
    ("e5-", "query: ", "passage: "),
    ("embeddinggemma", "task: search result | query: ", "title: none | text: "),
    (
        "qwen3-embedding",
        "Instruct: Given a question, retrieve passages that answer it\nQuery: ",
        "",
    ),
)
_ACTIONS = ("add", "update", "search", None)


def prefixes(model: str) -> tuple[str, str]:
    """Return what the model was trained to see before a query and before a document."""
    name = canonical(model).rpartition("/")[2]
    for family, query, document in _PREFIXES:
        if family in name:
            return query, document
    return "", ""


class _Waiting:
    """One caller's texts, and the answer to them once `done` is set."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.done = anyio.Event()
        self.vectors: list[Vector] = []
        self.error: Exception | None = None

    def answer(self, vectors: list[Vector], error: Exception | None = None) -> None:
        self.vectors, self.error = vectors, error
        self.done.set()


class OllamaEmbedder:
    """Embeds with a model of an Ollama server; `async with` it, its requests run in its own tasks.

    A call is sent at once while fewer than `in_flight` requests are under way; what comes meanwhile is
    gathered into the next request, up to `batch` texts. Ollama embeds one text at a time, so larger requests
    gain nothing.

    Args:
        config: an `EmbedderConfig`, a mapping of its fields, or a model's name.
        client: the client to use; without one it makes its own of the config, and closes it when it is left.
        batch: most texts in one request.
        in_flight: most requests at once.
    """

    def __init__(
        self,
        config: EmbedderConfig | Mapping[str, Any] | str | None = None,
        *,
        client: OllamaClient | None = None,
        batch: int = 64,
        in_flight: int = 2,
    ) -> None:
        if min(batch, in_flight) < 1:
            raise ConfigError(f"batch and in_flight are at least 1, got {batch} and {in_flight}")
        self.config = EmbedderConfig.of(config)
        self.client = client or connect(self.config)
        self._owns_client = client is None
        self._batch = batch
        self._in_flight = in_flight
        query, document = prefixes(self.config.model)
        self._query_prefix = query if self.config.query_prefix is None else self.config.query_prefix
        self._document_prefix = document if self.config.document_prefix is None else self.config.document_prefix
        self._stack = AsyncExitStack()
        self._queue: MemoryObjectSendStream[_Waiting] | None = None
        self._callers: set[_Waiting] = set()

    @property
    def model(self) -> str:
        """The model's name with its tag."""
        return display(self.config.model)

    async def __aenter__(self) -> Self:
        if self._owns_client:
            await self._stack.enter_async_context(self.client)
        # No bound of its own: each caller waits for its answer, so the queue is as long as there are callers.
        self._queue, receive = anyio.create_memory_object_stream[_Waiting](math.inf)
        self._stack.enter_context(self._queue)
        self._stack.enter_context(receive)
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(tasks.cancel_scope.cancel)
        for _ in range(self._in_flight):
            tasks.start_soon(self._work, receive)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._queue = None
        await self._stack.aclose()
        for caller in self._callers:
            caller.answer([], OllamaError("the embedder was closed while it was asked"))

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """Embed texts that are to be found: one float32 vector of length one for each, in order.

        Raises:
            ConfigError: that is no list of texts; nothing was sent.
            OllamaError: the server could not be reached, or refused.
        """
        return await self.embed_batch(texts, "add")

    async def embed_query(self, text: str) -> Vector:
        """Embed a text that looks for others: a float32 vector of length one."""
        return await self.embed(text, "search")

    async def embed(self, text: str, memory_action: Literal["add", "update", "search"] | None = None) -> Vector:
        """Embed one text: with "search" as one that looks for others, else as one that is to be found."""
        return (await self.embed_batch([text], memory_action))[0]

    async def embed_batch(
        self, texts: Sequence[str], memory_action: Literal["add", "update", "search"] | None = None
    ) -> list[Vector]:
        """Embed texts: one float32 vector of length one for each, in order; `memory_action` is as of `embed`.

        Raises:
            ConfigError: an argument is not what it should be; nothing was sent.
        """
        if memory_action not in _ACTIONS:
            raise ConfigError(f"memory_action is 'add', 'update', 'search' or None, got {memory_action!r}")
        prefix = self._query_prefix if memory_action == "search" else self._document_prefix
        return await self._embed([prefix + text for text in _listed(texts)])

    async def _embed(self, texts: list[str]) -> list[Vector]:
        parts = [_Waiting(texts[i : i + self._batch]) for i in range(0, len(texts), self._batch)]
        self._callers.update(parts)
        try:
            return await self._answered(parts)
        finally:
            self._callers.difference_update(parts)  # whoever is cancelled is not asked for any more

    async def _answered(self, parts: list[_Waiting]) -> list[Vector]:
        if self._queue is None:
            raise ConfigError("an OllamaEmbedder works inside 'async with'")
        for part in parts:
            self._queue.send_nowait(part)
        vectors: list[Vector] = []
        for part in parts:
            await part.done.wait()
            if part.error:
                raise part.error
            vectors += part.vectors
        return vectors

    async def _work(self, queue: MemoryObjectReceiveStream[_Waiting]) -> None:
        left_over: _Waiting | None = None
        while True:
            group = [left_over or await queue.receive()]
            left_over = self._gather(queue, group)
            await self._serve([part for part in group if part in self._callers])

    def _gather(self, queue: MemoryObjectReceiveStream[_Waiting], group: list[_Waiting]) -> _Waiting | None:
        """Add to the group what waits already; returns the part that would make it too long."""
        size = len(group[0].texts)
        while True:
            try:
                part = queue.receive_nowait()
            except anyio.WouldBlock:
                return None
            size += len(part.texts)
            if size > self._batch:
                return part
            group.append(part)

    async def _serve(self, group: list[_Waiting]) -> None:
        texts = list(dict.fromkeys(text for part in group for text in part.texts))
        if not texts:
            return
        try:
            vectors = dict(zip(texts, await self._request(texts), strict=True))
        except Exception as exc:  # noqa: BLE001 - it is raised where the texts came from
            await self._fail(group, exc)
            return
        for part in group:
            part.answer([vectors[text] for text in part.texts])

    async def _fail(self, group: list[_Waiting], exc: Exception) -> None:
        """One caller's bad text must not fail its neighbours: they are asked for apart."""
        is_of_a_text = isinstance(exc, StatusError) and not exc.retryable
        if len(group) > 1 and (is_of_a_text or not isinstance(exc, OllamaError)):
            for part in group:
                await self._serve([part])
            return
        for part in group:
            part.answer([], exc)

    async def _request(self, texts: list[str]) -> list[Vector]:
        dims = self.config.embedding_dims
        response = await self.client.embed(self.config.model, texts, dimensions=dims, keep_alive=self.config.keep_alive)
        if dims and any(len(vector) != dims for vector in response.embeddings):
            raise ConfigError(
                f"{self.model} makes vectors of {len(response.embeddings[0])}, not of embedding_dims={dims}: "
                "leave embedding_dims out, or give a smaller one"
            )
        return [_unit(np.asarray(vector)) for vector in response.embeddings]


def _listed(texts: object) -> list[str]:
    """Check what is to be embedded; one text would be taken for a list of its letters."""
    if isinstance(texts, str):
        raise ConfigError("texts is a list of texts, got a text: put it into a list, or use `embed`")
    return checked_texts(texts)


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    if not (length > 0 and math.isfinite(length)):
        raise OllamaError("the server sent an embedding that is zero or not finite")
    return vector / np.float32(length)
