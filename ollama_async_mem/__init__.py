"""An async Ollama client, and a memory for asyncio applications that never makes them wait.

Public names load on first use: importing the package imports neither httpx nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ollama_async_mem.app import Memory
    from ollama_async_mem.config import EmbedderConfig, OllamaConfig, Settings, load_config, load_settings
    from ollama_async_mem.counts import Counts
    from ollama_async_mem.embedding import OllamaEmbedder
    from ollama_async_mem.llm import OllamaLLM
    from ollama_async_mem.memory.chat import MemoryChat
    from ollama_async_mem.memory.service import MemoryService
    from ollama_async_mem.memory.weights import RankingWeights
    from ollama_async_mem.ollama._http import Timeouts
    from ollama_async_mem.ollama._retry import RetryPolicy, no_retry_waits
    from ollama_async_mem.ollama._streams import ChatStream, GenerateStream
    from ollama_async_mem.ollama._transport import OllamaTransport
    from ollama_async_mem.ollama.client import OllamaClient
    from ollama_async_mem.ollama.models import PullState
    from ollama_async_mem.ollama.schema import (
        ChatChunk,
        ChatMessage,
        ChatResponse,
        EmbedResponse,
        GenerateChunk,
        GenerateResponse,
        ModelInfo,
        PullProgress,
        RunningModel,
        ShowResponse,
        ToolCall,
    )
    from ollama_async_mem.ollama.tools import run_tools, tool_schema
    from ollama_async_mem.records import AddResult, Fact, Hit, Message, Page, Recalled, Scope, SearchResult, Turn
    from ollama_async_mem.stores import open_store

__version__ = "0.1.0"

_HOMES = {
    "AddResult": "records",
    "ChatChunk": "ollama.schema",
    "ChatMessage": "ollama.schema",
    "ChatResponse": "ollama.schema",
    "ChatStream": "ollama._streams",
    "Counts": "counts",
    "EmbedResponse": "ollama.schema",
    "EmbedderConfig": "config",
    "Fact": "records",
    "GenerateChunk": "ollama.schema",
    "GenerateResponse": "ollama.schema",
    "GenerateStream": "ollama._streams",
    "Hit": "records",
    "Memory": "app",
    "MemoryChat": "memory.chat",
    "MemoryService": "memory.service",
    "Message": "records",
    "ModelInfo": "ollama.schema",
    "OllamaClient": "ollama.client",
    "OllamaConfig": "config",
    "OllamaEmbedder": "embedding",
    "OllamaLLM": "llm",
    "OllamaTransport": "ollama._transport",
    "Page": "records",
    "PullProgress": "ollama.schema",
    "PullState": "ollama.models",
    "RankingWeights": "memory.weights",
    "Recalled": "records",
    "RetryPolicy": "ollama._retry",
    "RunningModel": "ollama.schema",
    "Scope": "records",
    "SearchResult": "records",
    "Settings": "config",
    "ShowResponse": "ollama.schema",
    "Timeouts": "ollama._http",
    "ToolCall": "ollama.schema",
    "Turn": "records",
    "load_config": "config",
    "load_settings": "config",
    "no_retry_waits": "ollama._retry",
    "open_store": "stores",
    "run_tools": "ollama.tools",
    "tool_schema": "ollama.tools",
}

__all__ = [
    "AddResult",
    "ChatChunk",
    "ChatMessage",
    "ChatResponse",
    "ChatStream",
    "Counts",
    "EmbedResponse",
    "EmbedderConfig",
    "Fact",
    "GenerateChunk",
    "GenerateResponse",
    "GenerateStream",
    "Hit",
    "Memory",
    "MemoryChat",
    "MemoryService",
    "Message",
    "ModelInfo",
    "OllamaClient",
    "OllamaConfig",
    "OllamaEmbedder",
    "OllamaLLM",
    "OllamaTransport",
    "Page",
    "PullProgress",
    "PullState",
    "RankingWeights",
    "Recalled",
    "RetryPolicy",
    "RunningModel",
    "Scope",
    "SearchResult",
    "Settings",
    "ShowResponse",
    "Timeouts",
    "ToolCall",
    "Turn",
    "load_config",
    "load_settings",
    "no_retry_waits",
    "open_store",
    "run_tools",
    "tool_schema",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
