"""The commands of the embedded engine."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts resolves annotations at run time
from typing import Annotated

from cyclopts import App, Parameter

from ollama_async_mem.cli.output import note
from ollama_async_mem.cli.session import has_engine
from ollama_async_mem.errors import MissingExtra
from ollama_async_mem.ollama.hosts import DEFAULT_PORT

__all__ = ["engine"]

engine = App(name="engine", help="The embedded engine, for machines without Ollama.")


@engine.command
def serve(
    *,
    host: Annotated[str, Parameter(env_var=())] = "127.0.0.1",
    port: int = DEFAULT_PORT,
    gguf: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    allow_remote: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Serve Ollama's API on llama.cpp until Ctrl-C; programs for Ollama find it where they look for Ollama.

    Args:
        host: The address to listen on.
        port: The port to listen on; Ollama's own by default.
        gguf: A model file to serve beside those of the catalogue; may be given more than once.
        allow_remote: Listen also on an address that other machines reach. The engine knows no passwords.
    """
    if not has_engine():
        raise MissingExtra("engine", "the embedded engine")
    from ollama_async_mem.engine.serve import serve as serve_engine  # noqa: PLC0415 - needs the extra

    serve_engine(
        host,
        port,
        gguf=gguf,
        allow_remote=allow_remote,
        on_ready=lambda url: note(f"serving Ollama's API at {url}, Ctrl-C ends it"),
    )
