"""The commands on the models of a server."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.filesize import decimal

from ollama_async_mem.cli.lines import agrees
from ollama_async_mem.cli.options import Json, Server
from ollama_async_mem.cli.output import note, pull_bar, say, show_fields, show_json, show_models, show_running
from ollama_async_mem.cli.session import open_client
from ollama_async_mem.ollama.names import canonical

__all__ = ["models"]

_DEFAULT = Server()

models = App(name="models", help="The models of the server.")


@models.command(name="list")
async def models_list(*, json: Json = False, server: Server = _DEFAULT) -> None:
    """List the installed models."""
    async with open_client(server.setup) as client:
        installed = await client.models.installed()
    if json:
        show_json({"models": installed})
    else:
        show_models(installed)


@models.command(name="pull")
async def models_pull(model: str, /, *, json: Json = False, server: Server = _DEFAULT) -> None:
    """Download a model.

    Args:
        model: Its name, such as llama3.2 or nomic-embed-text.
    """
    async with open_client(server.setup) as client:
        with pull_bar(model, quiet=json) as update:
            pulled = await client.models.ensure(model, update)
    if json:
        show_json({"model": model, "pulled": pulled})
    else:
        say(f"{model} is {'installed' if pulled else 'installed already'}")


@models.command(name="show")
async def models_show(model: str, /, *, json: Json = False, server: Server = _DEFAULT) -> None:
    """Tell what a model is: size, quantization, context, what it can do.

    Args:
        model: Its name, such as llama3.2.
    """
    async with open_client(server.setup) as client:
        shown = await client.show(model)
    if json:
        show_json(shown)
        return
    sizes = {"context_length": shown.context_length or None, "embedding_length": shown.embedding_length or None}
    show_fields(
        {
            "model": model,
            "family": shown.details.family,
            "parameters": shown.details.parameter_size,
            "quantization": shown.details.quantization_level,
            **sizes,
            "can": ", ".join(shown.capabilities),
            "set": "; ".join(shown.parameters.splitlines()),
            "license": shown.license.strip().partition("\n")[0],
        }
    )


@models.command(name="ps")
async def models_ps(*, json: Json = False, server: Server = _DEFAULT) -> None:
    """List the loaded models: how much of each the GPU holds, and until when it stays."""
    async with open_client(server.setup) as client:
        running = await client.models.running()
    if json:
        show_json({"models": [{**msgspec.to_builtins(model), "gpu_share": model.gpu_share} for model in running]})
        return
    show_running(running)
    if not running:
        note("no model is loaded")


@models.command(name="load")
async def models_load(
    model: str,
    /,
    *,
    keep_alive: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    json: Json = False,
    server: Server = _DEFAULT,
) -> None:
    """Load a model, so that its first answer does not wait for that.

    Args:
        model: Its name, such as llama3.2.
        keep_alive: How long it stays without being used, such as 30m or 2h, or -1s for ever.
    """
    async with open_client(server.setup) as client:
        await client.models.load(model, keep_alive=keep_alive)
    _tell(model, "loaded", json=json)


@models.command(name="unload")
async def models_unload(model: str, /, *, json: Json = False, server: Server = _DEFAULT) -> None:
    """Take a model out of memory, once nobody uses it.

    Args:
        model: Its name, such as llama3.2.
    """
    async with open_client(server.setup) as client:
        await client.models.unload(model)
    _tell(model, "unloaded", json=json)


@models.command(name="delete")
def models_delete(
    model: str,
    /,
    *,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False,
    json: Json = False,
    server: Server = _DEFAULT,
) -> int:
    """Delete a model from the server's disk, for everybody who uses it. In a terminal it asks first.

    Args:
        model: Its name, such as llama3.2.
        yes: Do not ask.
    """
    # It is asked between two event loops: a thread that reads the terminal could not be stopped.
    if not yes and sys.stdin.isatty() and not agrees(asyncio.run(_question(model, server))):
        note("nothing was deleted")
        return 1
    asyncio.run(_delete(model, server))
    _tell(model, "deleted", json=json)
    return 0


async def _question(model: str, server: Server) -> str:
    async with open_client(server.setup) as client:
        await client.show(model)  # what is not there is not asked about
        sizes = {canonical(info.name): info.size for info in await client.models.installed()}
    return f"delete {model}, {decimal(sizes.get(canonical(model), 0))}, from {client.url}?"


async def _delete(model: str, server: Server) -> None:
    async with open_client(server.setup) as client:
        await client.delete(model)


def _tell(model: str, state: str, *, json: bool) -> None:
    if json:
        show_json({"model": model, "state": state})
    else:
        say(f"{model} is {state}")
