"""The composition root: settings become an opened memory. The only place that names concrete classes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from ollama_async_mem.config import load_settings
from ollama_async_mem.embedding import OllamaEmbedder
from ollama_async_mem.llm import OllamaLLM
from ollama_async_mem.memory.service import MemoryService
from ollama_async_mem.ollama.client import OllamaClient
from ollama_async_mem.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_async_mem.ports import ChatModel, Embedder, MemoryStore

__all__ = ["Memory"]

T = TypeVar("T")


class Memory(MemoryService):
    """A memory on a local Ollama server and an embedded store.

    Args:
        store: path or URL of the store, or any `ports.MemoryStore`; by default OLLAMA_ASYNC_MEM_STORE, else one
            file in the user's data folder.
        llm: chat model for extraction and `chat`, by name or as any `ports.ChatModel`; by default
            OLLAMA_ASYNC_MEM_LLM, else llama3.2.
        embedder: embedding model, by name or as any `ports.Embedder`; by default OLLAMA_ASYNC_MEM_EMBEDDER, else
            nomic-embed-text. A store holds the vectors of one model only.
        host: the Ollama server, in the grammar of OLLAMA_HOST, which is the default.
        client: an `OllamaClient` to use in place of one of its own; it stays open afterwards.
        extract_here: whether this process works off the extraction queue, or leaves it to others on the store.

    Constructing does no I/O.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | MemoryStore | None = None,
        *,
        llm: str | ChatModel | None = None,
        embedder: str | Embedder | None = None,
        host: str | None = None,
        client: OllamaClient | None = None,
        extract_here: bool = True,
    ) -> None:
        settings = load_settings(store=_name(store), llm=_name(llm), embedder=_name(embedder), host=host)
        self.client = client or OllamaClient(settings.host)
        super().__init__(
            store=_given_or(store, lambda: open_store(settings.store)),
            embedder=_given_or(embedder, lambda: OllamaEmbedder(self.client, settings.embedder)),
            llm=_given_or(llm, lambda: OllamaLLM(self.client, settings.llm)),
            extract_here=extract_here,
            resources=() if client else (self.client,),
        )


def _name(value: object) -> str | None:
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


def _given_or(value: T | str | os.PathLike[str] | None, make: Callable[[], T]) -> T:
    """The object that was given, or one that is made where a name or nothing was."""
    return make() if value is None or isinstance(value, str | os.PathLike) else value
