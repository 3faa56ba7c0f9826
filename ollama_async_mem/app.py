"""The composition root: settings become an opened memory. The only place that names concrete classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_async_mem.config import load_settings
from ollama_async_mem.embedding import OllamaEmbedder
from ollama_async_mem.llm import OllamaLLM
from ollama_async_mem.memory.service import MemoryService
from ollama_async_mem.ollama.client import OllamaClient
from ollama_async_mem.stores import open_store

if TYPE_CHECKING:
    import os

__all__ = ["Memory"]


class Memory(MemoryService):
    """A memory on a local Ollama server and an embedded store.

    Args:
        store: path or URL of the store; by default OLLAMA_ASYNC_MEM_STORE, else one file in the user's data
            folder.
        llm: chat model for extraction and `chat`; by default OLLAMA_ASYNC_MEM_LLM, else llama3.2.
        embedder: embedding model; by default OLLAMA_ASYNC_MEM_EMBEDDER, else nomic-embed-text. A store holds the
            vectors of one model only.
        host: the Ollama server, in the grammar of OLLAMA_HOST, which is the default.
        client: an `OllamaClient` to use in place of one of its own; it stays open afterwards.

    Constructing does no I/O. To use other parts than these, make a `MemoryService` of them.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        *,
        llm: str | None = None,
        embedder: str | None = None,
        host: str | None = None,
        client: OllamaClient | None = None,
    ) -> None:
        settings = load_settings(store=None if store is None else str(store), llm=llm, embedder=embedder, host=host)
        self.settings = settings
        self.client = client or OllamaClient(settings.host)
        super().__init__(
            store=open_store(settings.store),
            embedder=OllamaEmbedder(self.client, settings.embedder),
            llm=OllamaLLM(self.client, settings.llm),
            resources=() if client else (self.client,),
        )
