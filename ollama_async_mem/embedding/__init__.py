"""Texts to vectors, where everyone who embeds at the same time shares the requests. Knows nothing of memory."""

from __future__ import annotations

from ollama_async_mem.embedding.embedder import OllamaEmbedder
from ollama_async_mem.embedding.families import prefixes

__all__ = ["OllamaEmbedder", "prefixes"]
