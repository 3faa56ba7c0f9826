"""The commands of the embedded engine."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from ollama_async_mem.cli.session import has_engine
from ollama_async_mem.errors import MissingExtra

__all__ = ["engine"]

engine = App(name="engine", help="The embedded engine, for machines without Ollama.")


@engine.command
def serve(
    *,
    host: Annotated[str, Parameter(env_var=())] = "127.0.0.1",
    port: int = 11434,
    gguf: Annotated[tuple[str, ...], Parameter(negative="")] = (),
) -> None:
    """Serve Ollama's API on llama.cpp until Ctrl-C; programs for Ollama find it where they look for Ollama.

    Args:
        host: The address to listen on.
        port: The port to listen on; Ollama's own by default.
        gguf: A model file to serve beside those of the catalogue; may be given more than once.
    """
    if not has_engine():
        raise MissingExtra("engine", "the embedded engine")
    from ollama_async_mem.engine.__main__ import serve as serve_engine  # noqa: PLC0415 - needs the extra

    serve_engine(host=host, port=port, gguf=gguf)
