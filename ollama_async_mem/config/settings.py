"""The settings of a memory, merged: defaults < file < environment < arguments. Reads only the file that is named."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.config.behaviour import MemoryConfig, WeightsConfig
from ollama_async_mem.config.files import flattened, read_settings
from ollama_async_mem.config.models import EmbedderConfig, OllamaConfig
from ollama_async_mem.config.server import ServerConfig
from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_EMBEDDER",
    "DEFAULT_LLM",
    "Settings",
    "data_folder",
    "default_store",
    "load_settings",
    "settings_file",
]

DEFAULT_LLM = "llama3.2"
DEFAULT_EMBEDDER = "nomic-embed-text"
CONFIG_VARIABLE = "OLLAMA_ASYNC_MEM_CONFIG"
APP_NAME = "ollama-async-mem"
_ARGUMENTS = {"store": "store", "llm": "llm.model", "embedder": "embedder.model", "host": "host"}
_ENVIRONMENT = {
    "OLLAMA_ASYNC_MEM_STORE": "store",
    "OLLAMA_ASYNC_MEM_LLM": "llm.model",
    "OLLAMA_ASYNC_MEM_EMBEDDER": "embedder.model",
    "OLLAMA_HOST": "host",
}
_BEHAVIOUR = {f"OLLAMA_ASYNC_MEM_{name.upper()}": name for name in MemoryConfig.__struct_fields__}
_SERVER = {
    **{f"OLLAMA_ASYNC_MEM_SERVER_{name.upper()}": name for name in ServerConfig.__struct_fields__},
    "OLLAMA_ASYNC_MEM_KEYS": "keys",  # which the commands on keys read too
}
# A model's own sampling parameters suit a conversation better than those of `OllamaConfig()`, made for extraction.
_DEFAULTS = {
    "llm.model": DEFAULT_LLM,
    "llm.temperature": None,
    "llm.top_p": None,
    "llm.top_k": None,
    "embedder.model": DEFAULT_EMBEDDER,
}
_SERVERS = ("llm.ollama_base_url", "embedder.ollama_base_url")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Which store, models and servers a memory uses, how it works, and how it is served.

    `origins` tells where a value comes from, by its dotted name such as "llm.model": "default", the path of the file,
    "mapping", a variable of the environment, or "argument". What is not in it is the default of its class.
    """

    store: str
    llm: OllamaConfig
    embedder: EmbedderConfig
    memory: MemoryConfig = MemoryConfig()
    server: ServerConfig = ServerConfig()
    origins: dict[str, str] = {}


def load_settings(
    environment: Mapping[str, str] | None = None,
    /,
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    **arguments: str | None,
) -> Settings:
    """Merge the defaults, the settings file, the environment and the arguments that are not None; later ones win.

    `config` is the file, or a mapping in its place; by default the file that OLLAMA_ASYNC_MEM_CONFIG names. Arguments
    are `store`, `llm`, `embedder` (names of models) and `host`. As an argument `host` is the server of both models,
    and so is OLLAMA_HOST; in the file it is that of those without an `ollama_base_url`.

    Raises:
        ConfigError: a setting is unknown or cannot be, or the file cannot be read.
    """
    environment = os.environ if environment is None else environment
    config = settings_file(environment) if config is None else config
    layers = [("default", {"store": default_store(environment), **_DEFAULTS})]
    if config is not None:
        content, name = read_settings(config)
        layers.append((name or "mapping", flattened(content, name)))
    layers += [
        (variable, _for_both({_ENVIRONMENT[variable]: text})) for variable, text in _set(_ENVIRONMENT, environment)
    ]
    layers += [(variable, _behaviour(variable, text)) for variable, text in _set(_BEHAVIOUR, environment)]
    layers += [(variable, _server(variable, text)) for variable, text in _set(_SERVER, environment)]
    layers.append(("argument", _named(arguments)))
    return _merged(layers)


def settings_file(environment: Mapping[str, str] | None = None) -> str | None:
    """Name the settings file that OLLAMA_ASYNC_MEM_CONFIG names; blank counts as unset."""
    return (os.environ if environment is None else environment).get(CONFIG_VARIABLE, "").strip() or None


def _set(variables: Iterable[str], environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that say something; blank is how shells unset one for a command."""
    texts = ((variable, environment.get(variable, "").strip()) for variable in variables)
    return ((variable, text) for variable, text in texts if text)


def _behaviour(variable: str, text: str) -> dict[str, Any]:
    values = MemoryConfig.of_variable(variable, _BEHAVIOUR[variable], text)
    return {f"memory.{name}": value for name, value in values.items()}


def _server(variable: str, text: str) -> dict[str, Any]:
    values = ServerConfig.of_variable(variable, _SERVER[variable], text)
    return {f"server.{name}": value for name, value in values.items()}


def _named(arguments: Mapping[str, str | None]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in _ARGUMENTS:
            raise ConfigError(f"unknown setting {name!r}; known are {', '.join(_ARGUMENTS)}")
        if value is not None:
            if not value.strip():
                raise ConfigError(f"the argument {name!r} is blank: leave it out for the default, or give a value")
            values[_ARGUMENTS[name]] = value.strip()
    return _for_both(values)


def _for_both(values: dict[str, Any]) -> dict[str, Any]:
    """Let a `host` that comes from outside of the file win over what the file says of either model."""
    return values | dict.fromkeys(_SERVERS, values["host"]) if "host" in values else values


def _merged(layers: Iterable[tuple[str, Mapping[str, Any]]]) -> Settings:
    """Put the layers on top of each other. Pure."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        values.update(layer)
        origins.update(dict.fromkeys(layer, origin))
    for key in _SERVERS:
        if "host" in values and values.get(key) is None:
            values[key], origins[key] = values["host"], origins["host"]
    weights = WeightsConfig(**_under("memory.weights.", values))
    own = {name: value for name, value in _under("memory.", values).items() if "." not in name}
    return Settings(
        store=values["store"],
        llm=OllamaConfig(**_under("llm.", values)),
        embedder=EmbedderConfig(**_under("embedder.", values)),
        memory=MemoryConfig(**own, weights=weights),
        server=ServerConfig(**_under("server.", values)),
        origins=origins,
    )


def _under(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


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
