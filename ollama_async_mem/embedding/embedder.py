"""`OllamaEmbedder`: texts to vectors by a model of an Ollama server. Batches, cache and pieces are its siblings'."""

from __future__ import annotations

import copy
import time
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
import numpy as np

from ollama_async_mem.config import EmbedderConfig
from ollama_async_mem.connect import connect
from ollama_async_mem.counts import EmbeddingCounts
from ollama_async_mem.embedding.batcher import BadText, Batcher
from ollama_async_mem.embedding.cache import VectorCache
from ollama_async_mem.embedding.context import SURE_BYTES, Room, room_of
from ollama_async_mem.embedding.families import prefixes
from ollama_async_mem.embedding.pieces import cut, pooled, size_of, split, unit
from ollama_async_mem.errors import ConfigError, ConnectFailed, EmbeddingFailed, EmbeddingMismatch
from ollama_async_mem.ollama._requests import checked_texts
from ollama_async_mem.ollama._retry import tell_retries
from ollama_async_mem.ollama.names import display

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ollama_async_mem.embedding.batcher import Outcome
    from ollama_async_mem.ollama.client import OllamaClient
    from ollama_async_mem.ports import Vector

__all__ = ["OllamaEmbedder"]

_ACTIONS = ("add", "update", "search", None)
_SHORTEST_PIECE = SURE_BYTES // 4  # characters
_AWAY_S = 30.0  # after a failure, for which it is looked first whether the server is there
_NO_DIRECTION = "its embedding is zero or not finite"


class OllamaEmbedder:
    """Embeds with a model of an Ollama server; `async with` it, its requests run in its own tasks.

    A call is sent at once while fewer than `in_flight` requests are under way; what comes meanwhile is
    gathered into the next request, up to `batch` texts, queries before documents. Ollama embeds one text at a time,
    so larger requests gain nothing. Texts that are asked for already, or are in the cache, are not sent again.
    The vectors are shared, so nobody can write to them.

    Args:
        config: an `EmbedderConfig`, a mapping of its fields, or a model's name.
        client: the client to use; without one it makes its own of the config, and closes it when it is left.
        batch: most texts in one request.
        in_flight: most requests at once.

    Every method that embeds may raise `OllamaError`: the server could not be reached, or refused; `EmbeddingFailed`
    where only some texts are to blame; `EmbeddingMismatch`: the model has changed, its vectors are of another length.
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
        query, document = prefixes(self.config.model)
        self._query_prefix = query if self.config.query_prefix is None else self.config.query_prefix
        self._document_prefix = document if self.config.document_prefix is None else self.config.document_prefix
        self._stack = AsyncExitStack()
        self._cache = VectorCache(self.config.cache_bytes)
        self._batcher = Batcher(self._request, self._cache, batch=batch, in_flight=in_flight)
        self._room: Room | None = None
        self._asking = anyio.Lock()
        self._dimension = 0
        self._away: ConnectFailed | None = None
        self._away_until = 0.0
        self._requests = self._retries = self._texts = self._sent = self._split = self._failed = 0
        self._seconds = 0.0

    @property
    def model(self) -> str:
        """The model's name with its tag."""
        return display(self.config.model)

    @property
    def statistics(self) -> EmbeddingCounts:
        """What it has done so far."""
        return EmbeddingCounts(
            requests=self._requests,
            retries=self._retries,
            seconds=self._seconds,
            texts=self._texts,
            sent=self._sent,
            shared=self._batcher.shared,
            cache_hits=self._cache.hits,
            cached=len(self._cache),
            cache_bytes=self._cache.size_bytes,
            split=self._split,
            failed=self._failed,
            dimension=self._dimension,
        )

    async def __aenter__(self) -> Self:
        if self._owns_client:
            await self._stack.enter_async_context(self.client)
        await self._batcher.open(self._stack)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """Embed texts that are to be found: one float32 vector of length one for each, in order.

        Raises:
            ConfigError: that is no list of texts; nothing was sent.
            EmbeddingFailed: some of the texts cannot be embedded; `positions` says which. The others are cached.
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
            EmbeddingFailed: as of `embed_documents`.
        """
        if memory_action not in _ACTIONS:
            raise ConfigError(f"memory_action is 'add', 'update', 'search' or None, got {memory_action!r}")
        self._batcher.check_open()
        is_query = memory_action == "search"
        if is_query:
            await self._check_away()
        prefix = self._query_prefix if is_query else self._document_prefix
        return self._vectors(await self._embedded(_listed(texts), prefix, urgent=is_query))

    async def _check_away(self) -> None:
        """Raise again what was raised lately, if the server is still away: a search need not wait for all tries."""
        away = self._away
        if away is not None and time.monotonic() < self._away_until and not await self.client.is_alive():
            raise copy.copy(away) from away.__cause__

    async def _parts(self, texts: list[str], prefix: str) -> list[tuple[int, str]]:
        """Cut what is surely too long; each piece comes with the place of its text."""
        own = size_of(prefix)
        longest = max(map(_size, range(len(texts)), texts), default=0)
        if self.config.overflow != "truncate" and longest + own > SURE_BYTES:
            most_bytes = max((await self._learned()).most_bytes - own, SURE_BYTES)
            if self.config.overflow == "split" and longest > most_bytes:
                return [(place, piece) for place, text in enumerate(texts) for piece in split(text, most_bytes)]
        return list(enumerate(texts))

    async def _learned(self) -> Room:
        if self._room:
            return self._room
        async with self._asking:  # one asks for all
            self._room = self._room or await room_of(self.client, self.config.model, self.config.keep_alive)
        return self._room

    async def _embedded(self, texts: list[str], prefix: str, *, urgent: bool) -> list[Vector | BadText]:
        """Return what came of each text; pieces that the server finds too long are cut again."""
        found: list[list[tuple[Vector | BadText, int]]] = [[] for _ in texts]
        parts = await self._parts(texts, prefix)
        while parts:
            self._texts += len(parts)
            outcomes = await self._batcher.ask([prefix + piece for _, piece in parts], urgent=urgent)
            asked, parts = parts, []
            for (place, piece), outcome in zip(asked, outcomes, strict=True):
                if self._is_cut_again(piece, outcome):
                    parts += [(place, half) for half in cut(piece, (len(piece) + 1) // 2)]
                else:
                    found[place].append((outcome, len(piece)))
        return [
            pieces[0][0] if len(pieces) == 1 else self._one(pieces, prefix + text)
            for text, pieces in zip(texts, found, strict=True)
        ]

    def _is_cut_again(self, piece: str, outcome: Vector | BadText) -> bool:
        is_too_long = isinstance(outcome, BadText) and outcome.is_too_long
        return is_too_long and self.config.overflow == "split" and len(piece) > _SHORTEST_PIECE

    def _one(self, pieces: list[tuple[Vector | BadText, int]], text: str) -> Vector | BadText:
        """What came of the pieces is what came of the text; it is not refused for its length a second time."""
        self._split += 1
        vectors: list[Vector] = []
        for outcome, _ in pieces:
            if isinstance(outcome, BadText):
                return outcome
            vectors.append(outcome)
        vector = pooled(vectors, [length for _, length in pieces])
        if vector is None:
            return BadText(_NO_DIRECTION)
        if self._room and size_of(text) <= self._room.most_bytes:  # the pieces of longer ones are in the cache
            self._cache.put(text, vector)
        return vector

    def _vectors(self, outcomes: list[Vector | BadText]) -> list[Vector]:
        """Raise what came in place of vectors."""
        vectors: list[Vector] = []
        bad: dict[int, BadText] = {}
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, BadText):
                bad[place] = outcome
            else:
                vectors.append(outcome)
        if bad:
            self._failed += len(bad)
            first = next(iter(bad.values()))
            advice = "; overflow='split' embeds it in pieces" if first.is_too_long else ""
            raise EmbeddingFailed(first.reason + advice, positions=tuple(bad), count=len(outcomes)) from first.cause
        return vectors

    async def _request(self, texts: list[str]) -> list[Outcome]:
        self._requests += 1
        self._sent += len(texts)
        config, room = self.config, self._room or Room()
        # Without `truncate` the server cuts without a word, and many texts may take the cheaper path.
        is_sure = config.overflow == "truncate" or max(map(size_of, texts)) <= room.sure_bytes
        with self._measured():
            response = await self.client.embed(
                config.model,
                texts,
                truncate=None if is_sure else False,
                dimensions=config.embedding_dims,
                keep_alive=config.keep_alive,
            )
        self._away = None
        return [self._checked(np.asarray(vector)) for vector in response.embeddings]

    @contextmanager
    def _measured(self) -> Iterator[None]:
        tell_retries(self._retried)
        began = time.monotonic()
        try:
            yield
        except ConnectFailed as exc:
            self._away, self._away_until = exc, time.monotonic() + _AWAY_S
            raise
        finally:
            self._seconds += time.monotonic() - began

    def _retried(self) -> None:
        self._retries += 1

    def _checked(self, vector: Vector) -> Outcome:
        dims = self.config.embedding_dims
        if dims and len(vector) != dims:
            return ConfigError(
                f"{self.model} makes vectors of {len(vector)}, not of embedding_dims={dims}: "
                "leave embedding_dims out, or give a smaller one"
            )
        scaled = unit(vector)
        if scaled is None:
            return BadText(_NO_DIRECTION)
        self._dimension = self._dimension or len(scaled)
        return scaled if len(scaled) == self._dimension else self._mismatch(len(scaled))

    def _mismatch(self, dimension: int) -> EmbeddingMismatch:
        expected, got = (f"{self.model} with {length} dimensions" for length in (self._dimension, dimension))
        return EmbeddingMismatch(expected=expected, got=got, where="what was embedded before")


def _listed(texts: object) -> list[str]:
    """Check what is to be embedded; one text would be taken for a list of its letters."""
    if isinstance(texts, str):
        raise ConfigError("texts is a list of texts, got a text: put it into a list, or use `embed`")
    return checked_texts(texts)


def _size(place: int, text: str) -> int:
    try:
        return size_of(text)
    except UnicodeEncodeError as exc:
        raise ConfigError(f"texts[{place}] has half a character, a surrogate without its other half") from exc
