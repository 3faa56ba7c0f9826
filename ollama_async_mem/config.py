"""Settings and where they come from: defaults < environment < arguments. Pure."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_EMBEDDER", "DEFAULT_LLM", "Settings", "data_folder", "default_store", "load_settings"]

DEFAULT_LLM = "llama3.2"
DEFAULT_EMBEDDER = "nomic-embed-text"
APP_NAME = "ollama-async-mem"
_ENVIRONMENT = {
    "store": "OLLAMA_ASYNC_MEM_STORE",
    "llm": "OLLAMA_ASYNC_MEM_LLM",
    "embedder": "OLLAMA_ASYNC_MEM_EMBEDDER",
    "host": "OLLAMA_HOST",
}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which store, models and server a memory uses; None means the default."""

    store: str
    llm: str = DEFAULT_LLM
    embedder: str = DEFAULT_EMBEDDER
    host: str | None = None


def load_settings(environment: Mapping[str, str] | None = None, **arguments: str | None) -> Settings:
    """Merge the defaults, the environment and the arguments that are not None; later ones win.

    Raises:
        ConfigError: an argument is unknown or blank.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {"store": default_store(environment)}
    for name, variable in _ENVIRONMENT.items():
        if environment.get(variable, "").strip():  # blank is how shells unset for one command
            values[name] = environment[variable].strip()
    for name, value in arguments.items():
        if name not in Settings.__struct_fields__:
            raise ConfigError(f"unknown setting {name!r}; known are {', '.join(Settings.__struct_fields__)}")
        if value is not None:
            if not value.strip():
                raise ConfigError(f"the argument {name!r} is blank: leave it out for the default, or give a value")
            values[name] = value.strip()
    return Settings(**values)


def default_store(environment: Mapping[str, str] | None = None) -> str:
    """Path of the store that is used when none is named: one file in the user's data folder."""
    return str(data_folder(os.environ if environment is None else environment) / "memory.db")


def data_folder(environment: Mapping[str, str]) -> Path:
    """Where programs keep this user's data, by the custom of the operating system (see platformdirs)."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / APP_NAME
