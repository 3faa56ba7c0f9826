"""The command that serves MCP to the program that starts it, over standard input and output."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import anyio
from cyclopts import App, Parameter

from ollama_async_mem.cli.options import Setup
from ollama_async_mem.cli.serve import _memory, _signals
from ollama_async_mem.errors import MissingExtra
from ollama_async_mem.server.access import Principal

__all__ = ["mcp"]

_DEFAULT = Setup()
_User = Annotated[str | None, Parameter(name=["--user", "-u", "--user-id"], env_var="OLLAMA_ASYNC_MEM_USER")]
_Agent = Annotated[str | None, Parameter(name=["--agent", "--agent-id"])]

mcp = App(name="mcp", help="Serve the memory as tools for Claude, Cursor, VS Code and other programs that speak MCP.")


@mcp.default
async def serve(
    *,
    user: _User = None,
    agent: _Agent = None,
    read_only: Annotated[bool, Parameter(negative="")] = False,
    setup: Setup = _DEFAULT,
) -> None:
    """Serve the Model Context Protocol on standard input and output, until that is closed.

    The program that uses the tools starts this command itself: put it in that program's settings. `serve` serves the
    same tools over HTTP.

    Args:
        user: The only user whose memories the tools reach. Default: any, and `me` where the model names nobody.
        agent: The only agent whose memories the tools reach.
        read_only: Offer only the tools that find and read.
    """
    if not find_spec("mcp"):
        raise MissingExtra("mcp", "MCP")
    from ollama_async_mem.server.mcp import serve_stdio  # noqa: PLC0415 - needs the extra, and takes half a second

    who = Principal(name="mcp", user_id=user, agent_id=agent, may_write=not read_only)
    with _signals() as told_to_end:
        async with _memory(setup) as memory, anyio.create_task_group() as tasks:

            async def end() -> None:
                await told_to_end.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(end)
            await serve_stdio(memory, who)
            tasks.cancel_scope.cancel()
