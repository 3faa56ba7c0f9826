"""Settings: what they are, what is allowed, where they come from. Knows nothing of what is done with them."""

from __future__ import annotations

from ollama_async_mem.config.behaviour import MemoryConfig, WeightsConfig
from ollama_async_mem.config.files import load_config
from ollama_async_mem.config.models import ConnectionConfig, EmbedderConfig, OllamaConfig
from ollama_async_mem.config.server import ServerConfig
from ollama_async_mem.config.settings import (
    DEFAULT_EMBEDDER,
    DEFAULT_LLM,
    Settings,
    data_folder,
    default_store,
    load_settings,
    settings_file,
)

__all__ = [
    "DEFAULT_EMBEDDER",
    "DEFAULT_LLM",
    "ConnectionConfig",
    "EmbedderConfig",
    "MemoryConfig",
    "OllamaConfig",
    "ServerConfig",
    "Settings",
    "WeightsConfig",
    "data_folder",
    "default_store",
    "load_config",
    "load_settings",
    "settings_file",
]
