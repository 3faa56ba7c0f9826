"""The page for people: the files of the folder `server/ui`, as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ollama_async_mem.server.problems import plain_problem
from ollama_async_mem.server.rest.routing import Answer, Route, problem_answer

if TYPE_CHECKING:
    from ollama_async_mem.server.rest.routing import Call

__all__ = ["PAGE_ROUTES"]

_FOLDER = Path(__file__).parent.parent / "ui"
_NAME = re.compile(r"\w[\w.-]{0,63}", re.ASCII)
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".webmanifest": b"application/manifest+json",
}
# Whatever a memory may hold, the page runs no script and shows no style but its own files.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"manifest-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


async def index(_call: Call) -> Answer:
    """Show the page."""
    return await _file("index.html")


async def file(call: Call) -> Answer:
    """Give a file of the page."""
    return await _file(call.name)


async def _file(name: str) -> Answer:
    """A file by its bare name; whatever leads elsewhere is none."""
    path = anyio.Path(_FOLDER / name)
    kind = _TYPES.get(path.suffix)
    if kind is None or not _NAME.fullmatch(name) or not await path.is_file():
        return problem_answer(plain_problem(404))
    headers = [(b"content-type", kind), (b"content-security-policy", _POLICY), (b"cache-control", b"no-cache")]
    return Answer(200, await path.read_bytes(), headers)


PAGE_ROUTES = (
    Route("GET", "/", index, returns=bytes),
    Route("GET", "/ui/{name:str}", file, returns=bytes),
)
