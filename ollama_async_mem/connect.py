"""From a configuration to the client that speaks to its server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_async_mem.ollama._http import Timeouts
from ollama_async_mem.ollama.client import OllamaClient

if TYPE_CHECKING:
    from ollama_async_mem.config import ConnectionConfig
    from ollama_async_mem.ollama._retry import RetryPolicy

__all__ = ["connect"]


def connect(config: ConnectionConfig, *, retry: RetryPolicy | None = None) -> OllamaClient:
    """Make a client of the server that a configuration names. Does no I/O.

    Raises:
        ConfigError: the address or a header cannot be.
    """
    return OllamaClient(
        config.ollama_base_url,
        headers=config.headers,
        api_key=config.api_key,
        timeouts=Timeouts(total_s=config.timeout),
        retry=retry,
    )
