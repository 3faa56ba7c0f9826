"""Texts to vectors, where everyone who embeds at the same time shares the requests. Knows nothing of memory."""

from __future__ import annotations

from ollama_async_mem.embedding.embedder import EmbedderStatistics, OllamaEmbedder
from ollama_async_mem.embedding.families import prefixes

__all__ = ["EmbedderStatistics", "OllamaEmbedder", "prefixes"]
