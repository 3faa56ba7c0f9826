"""The commands on settings: what they are and where each comes from, whether a file is right, and a first file."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from cyclopts import App

from ollama_async_mem.cli.options import Json, Setup
from ollama_async_mem.cli.output import note, say, show_fields, show_json, without_passwords
from ollama_async_mem.config import load_settings, settings_file
from ollama_async_mem.connect import connect
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.memory.weights import RankingWeights
from ollama_async_mem.server.keys import default_key_file
from ollama_async_mem.server.settings import ServerSettings
from ollama_async_mem.stores import open_store

if TYPE_CHECKING:
    from ollama_async_mem.config import Settings

__all__ = ["settings"]

_DEFAULT = Setup()
_VARIABLE = "OLLAMA_ASYNC_MEM_CONFIG"

settings = App(name="config", help="The settings: where they come from, and a file for them.")


@settings.command
def show(*, json: Json = False, setup: Setup = _DEFAULT) -> None:
    """Show every setting, and where its value comes from: default, file, variable or argument. Secrets are hidden."""
    loaded = load_settings(store=setup.store, host=setup.host, llm=setup.llm, embedder=setup.embedder)
    values = _values(loaded)
    if json:
        listed = {name: {"value": value, "from": _origin(loaded, name)} for name, value in values.items()}
        show_json({"file": settings_file(), "settings": listed})
        return
    show_fields({name: f"{_shown(value)}  ({_origin(loaded, name)})" for name, value in values.items()})
    if not settings_file():
        note(f"{_VARIABLE} names no settings file; 'ollama-async-mem config init' writes one")


def _shown(value: Any) -> str:
    """A value as a settings file has it."""
    if value in (None, "", (), []):
        return "not set"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _values(loaded: Settings) -> dict[str, Any]:
    """All settings by their dotted names, without secrets."""
    values: dict[str, Any] = {"store": without_passwords(loaded.store)}
    for section, model in (("llm", loaded.llm), ("embedder", loaded.embedder)):
        given = dict(model.__rich_repr__())
        values |= {f"{section}.{field}": given.get(field) for field in model.__struct_fields__}
    own = msgspec.structs.asdict(loaded.memory)
    weights = RankingWeights(**own.pop("weights").given)
    values |= {f"memory.{field}": value for field, value in own.items()}
    values |= {f"memory.weights.{name}": value for name, value in msgspec.structs.asdict(weights).items()}
    own_files = {
        "keys": loaded.server.keys or str(default_key_file(loaded.store)),
        "audit_log": loaded.server.audit_log,
    }
    served = msgspec.structs.asdict(ServerSettings()) | loaded.server.given | own_files
    return values | {f"server.{name}": value for name, value in served.items()}


def _origin(loaded: Settings, name: str) -> str:
    return loaded.origins.get(name, "default")


@settings.command
def check(file: str | None = None, /, *, json: Json = False) -> None:
    """Tell whether settings are right: those of a file alone, or all that are set up. The exit code is 2 where not.

    Args:
        file: A settings file, YAML or JSON. Without it, the variables and the file that they name are checked.
    """
    loaded = load_settings(os.environ if file is None else {}, config=file)
    open_store(loaded.store)
    ServerSettings(**loaded.server.given)
    for model in (loaded.llm, loaded.embedder):
        connect(model)
    name = file or settings_file()
    if json:
        show_json({"file": name, "right": True})
    else:
        say(f"the settings {f'of {name}' if name else 'of the environment'} are right")


@settings.command
def init(file: str = "ollama-async-mem.yaml", /, *, force: bool = False, json: Json = False) -> None:
    """Write a settings file with every setting and what it means, ready to be changed.

    Args:
        file: The new file.
        force: Replace it where it exists.
    """
    path = Path(file).expanduser()
    try:
        with path.open("wb" if force else "xb") as new:
            new.write(files("ollama_async_mem.cli").joinpath("settings.yaml").read_bytes())
    except FileExistsError as exc:
        raise ConfigError(f"{file} exists already: name another file, or replace it with --force") from exc
    except (OSError, RuntimeError, ValueError) as exc:  # RuntimeError is an unknown ~user, ValueError a NUL
        raise ConfigError(f"cannot write {file}: {getattr(exc, 'strerror', None) or exc}") from exc
    if json:
        show_json({"file": file})
        return
    say(f"wrote {file}")
    if os.path.realpath(settings_file() or "") != os.path.realpath(path):
        note(f"to use it: export {_VARIABLE}={path.absolute()}")
