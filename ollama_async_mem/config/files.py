"""Settings files: YAML or JSON in the shape that Mem0's users know. Reads a file and checks it, merges nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollama_async_mem.config.behaviour import MemoryConfig
from ollama_async_mem.config.checks import Place, checked, require_mapping, unknown_key, wrong_value
from ollama_async_mem.config.models import ConnectionConfig, EmbedderConfig, OllamaConfig
from ollama_async_mem.config.server import ServerConfig
from ollama_async_mem.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    import yaml

__all__ = ["flattened", "load_config", "read_settings"]

_QUOTED = re.compile(r"\b(alias|anchor|handle|tag) '.*", re.DOTALL)  # what a secret with * & ! in front is to YAML
_MOST_BYTES = 64 * 1024
_SECTIONS: dict[str, type[ConnectionConfig]] = {"llm": OllamaConfig, "embedder": EmbedderConfig}
_KEYS = ("store", "host", *_SECTIONS, "memory", "server")
_INSTEAD = {
    "vector_store": "name the one file of all memories by 'store', such as sqlite:///memory.db",
    "history_db_path": "name the one file of all memories by 'store', such as sqlite:///memory.db",
    "graph_store": "leave it out, facts and turns lie in 'store'",
    "reranker": "leave it out, results are ranked by vectors and words together",
    "version": "leave it out, there is one format",
    "custom_instructions": "they are 'prompt' under 'memory' here",
    "custom_fact_extraction_prompt": "it is 'prompt' under 'memory' here",
}
_SECTION_KEYS = ("provider", "config")


def load_config(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Read settings from a YAML or JSON file (by its suffix), or take a mapping, and check them.

    The shape is `{"llm": {"provider": "ollama", "config": {...}}, "embedder": {...}, "store": ..., "host": ...,
    "memory": {...}, "server": {...}}`, where the keys of `config` are those of `OllamaConfig` and `EmbedderConfig`,
    those of `memory` are of `MemoryConfig`, and those of `server` of `ServerConfig`. All are optional.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value cannot be; says where.
        MissingExtra: the file is YAML, and PyYAML is not installed.
    """
    settings, name = read_settings(source)
    flattened(settings, name)
    return dict(settings)


def read_settings(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[Mapping[Any, Any], str]:
    """Read a file, or take a mapping; returns what it holds, unchecked, and its name, "" for a mapping.

    Raises:
        ConfigError: the file cannot be read.
        MissingExtra: the file is YAML, and PyYAML is not installed.
    """
    if isinstance(source, Mapping):
        return source, ""
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"settings are a mapping or the path of a file, got {source!r}")
    return _parsed(Path(source)), os.fspath(source)


def flattened(settings: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """Check settings and give them dotted names, such as "llm.temperature"; what is null is left out. Pure.

    Raises:
        ConfigError: a key is unknown or a value cannot be.
    """
    place = Place(f"{name}: " if name else "")
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in _KEYS:
            raise unknown_key(key, _KEYS, instead=_INSTEAD, place=place)
        if value is not None:
            flat |= _flattened(key, value, place)
    return flat


def _flattened(key: str, value: object, place: Place) -> dict[str, Any]:
    inside = place.inside(key)
    if key == "memory":
        values = MemoryConfig.flattened(value, inside)
    elif key == "server":
        values = checked(ServerConfig, value, inside)
    elif key in _SECTIONS:
        values = _section(value, _SECTIONS[key], inside)
    else:
        return {key: _text(value, f"{place.file}{key}")}
    return {f"{key}.{field}": given for field, given in values.items()}


def _section(section: object, type_: type[ConnectionConfig], place: Place) -> dict[str, Any]:
    """Check one model: its name alone, or `provider` and `config`."""
    if isinstance(section, str):
        return type_.checked({"model": section}, place)
    given = require_mapping(section, f"{place.file}{place.path.removesuffix('.')}")
    for key in given:
        if key not in _SECTION_KEYS:
            instead = dict.fromkeys(type_.__struct_fields__, f"it belongs under '{place.path}config'")
            raise unknown_key(key, _SECTION_KEYS, instead=instead, place=place)
    if given.get("provider", "ollama") != "ollama":
        raise wrong_value(f"{place.file}{place.path}provider", given["provider"], "ollama")
    config = given.get("config")
    return {} if config is None else type_.checked(config, place.inside("config"))


def _text(value: object, name: str) -> str:
    if not (isinstance(value, str) and value.strip()):
        raise wrong_value(name, value, "a text that is not blank")
    return value.strip()


def _parsed(path: Path) -> Mapping[Any, Any]:
    content = _content(path)
    try:
        settings = json.loads(content) if path.suffix.lower() == ".json" else _decode_yaml(content)
    except (ValueError, RecursionError) as exc:  # all that the decoders raise are ValueErrors
        reason = " ".join(str(exc).replace('in "<byte string>", ', "at ").split())
        raise ConfigError(f"{path} cannot be read as {path.suffix.lstrip('.') or 'yaml'}: {reason}") from exc
    return require_mapping({} if settings is None else settings, f"the content of {path}")


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise ConfigError(f"cannot read the settings file {path}: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path} is larger than {_MOST_BYTES:,} bytes: that is no settings file")
    return content


def _decode_yaml(content: bytes) -> Any:
    """Decode with PyYAML's own parser: deep nesting is an error to it, and a crash to libyaml's."""
    try:
        import yaml  # noqa: PLC0415 - needs the extra
    except ImportError as exc:
        raise MissingExtra("yaml", "a settings file in YAML") from exc
    try:
        return yaml.safe_load(content)
    except yaml.MarkedYAMLError as exc:
        raise ValueError(_yaml_fault(exc)) from None  # its text quotes the line, which may be that of a key
    except yaml.YAMLError as exc:
        raise ValueError(str(exc)) from exc


def _yaml_fault(exc: yaml.MarkedYAMLError) -> str:
    """What is wrong and where, without what stands there."""
    problem = _QUOTED.sub(r"\1", exc.problem or exc.context or "it is no YAML")
    mark = exc.problem_mark or exc.context_mark
    return f"{problem} at line {mark.line + 1}, column {mark.column + 1}" if mark else problem
