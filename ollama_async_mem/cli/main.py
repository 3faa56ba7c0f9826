"""The commands put together, and how a run ends: its exit code, and its errors in one line."""

from __future__ import annotations

import os
import sys

from cyclopts import App, CycloptsError, Group, Parameter

from ollama_async_mem import __version__
from ollama_async_mem.cli.changing import changing
from ollama_async_mem.cli.chat import chatting
from ollama_async_mem.cli.demo import demonstration
from ollama_async_mem.cli.doctor import examination
from ollama_async_mem.cli.engine import engine
from ollama_async_mem.cli.keys import keys
from ollama_async_mem.cli.mcp import mcp
from ollama_async_mem.cli.models import models
from ollama_async_mem.cli.moving import moving
from ollama_async_mem.cli.output import note, show_json, without_passwords
from ollama_async_mem.cli.reading import reading
from ollama_async_mem.cli.serve import serve
from ollama_async_mem.cli.settings import settings
from ollama_async_mem.cli.stores import stores
from ollama_async_mem.cli.writing import writing
from ollama_async_mem.errors import ConfigError, MissingExtra, OllamaAsyncMemError

__all__ = ["FAILED", "INTERRUPTED", "USAGE", "build", "run"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
_GROUPS = {
    "Begin with": ("demo", "doctor", "chat"),
    "Memories": (
        *("add", "search", "context", "list", "get", "history"),
        *("update", "delete", "flush", "scopes", "stats"),
    ),
    "Files and stores": ("import", "export", "store"),
    "Models and settings": ("models", "engine", "config"),
    "For other programs": ("serve", "mcp", "keys"),
    "Besides": ("--help", "--version", "--install-completion"),
}


def build() -> App:
    """Make the app of all commands."""
    app = App(
        name="ollama-async-mem",
        help="A memory on local models: add what was said, find it again, and chat with it.\n\n"
        "`demo` shows all of it, and `doctor` says what is missing. COMMAND --help says more.",
        help_epilogue="Exit codes: 0 done, 1 failed, 2 wrong usage or settings or no server, 130 interrupted.",
        version=__version__,
        default_parameter=Parameter(show_default=_default),
    )
    for part in (demonstration, writing, reading, changing, moving, chatting, examination):
        app.update(part)
    for group in (models, engine, stores, settings, serve, mcp, keys):
        app.command(group)
    app.register_install_completion_command()
    for number, (name, commands) in enumerate(_GROUPS.items()):
        place = Group(name, sort_key=number)
        for command in commands:
            app[command].group = (place,)
    return app


def _default(value: object) -> str | None:
    """How a default is shown: those that say nothing are not."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or None
    return None if value is None or value is False else str(value)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        code: int | None = build()(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (CycloptsError, OllamaAsyncMemError) as exc:
        _report(exc, as_json="--json" in tokens)
        return USAGE if isinstance(exc, CycloptsError | ConfigError | MissingExtra) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it does not fail again
        return FAILED
    except OSError as exc:  # standard output is full, or gone
        note(f"error: {exc}", style="red")
        return FAILED
    return code or 0


def _report(exc: CycloptsError | OllamaAsyncMemError, *, as_json: bool) -> None:
    message = without_passwords(str(exc))  # an argument that is out of place may be any URL
    if as_json:
        show_json({"error": {"type": type(exc).__name__, "message": message}})
    note(f"error: {message}", style="red")
