"""Every route of the server with every kind of key: a new route is walked as soon as it is there."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import httpx

from ollama_async_mem.server.keys import KeyFile
from ollama_async_mem.server.rest import rest_app
from ollama_async_mem.server.rest.app import routes
from ollama_async_mem.server.serve import Parts, serving
from ollama_async_mem.server.settings import ServerSettings

from .small import off_loop
from .test_rest_access import API, SECRET, body_of, query_of, wanted_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ollama_async_mem import Memory
    from ollama_async_mem.server.request import AsgiScope, Receive, Send
    from ollama_async_mem.server.rest.routing import Route

# What changes something. Whoever adds a route says here whose it is.
OF_WRITERS = {
    "POST /memories",
    "POST /memories/batch",
    "DELETE /memories",
    "PATCH /memories/{id:str}",
    "DELETE /memories/{id:str}",
    "POST /chat",
    "POST /jobs/retry",
}
OF_ADMINS = {
    "POST /models/pull",
    "POST /models/load",
    "POST /models/unload",
    "DELETE /models/{name:path}",
    "PATCH /configuration",
    "POST /import",
}
KINDS: dict[str, dict[str, Any]] = {
    "bob": {"user_id": "bob"},
    "bot": {"agent_id": "bot"},
    "reader": {"may_write": False},
    "writer": {},
}


def name_of(route: Route) -> str:
    """A route as the lists name it."""
    return f"{route.method} {route.path.removeprefix(API)}"


class Walked:
    """The routes behind the guard, a key of each kind, and what got through."""

    def __init__(self, memory: Memory) -> None:
        self.app = rest_app(memory, allow_config=True)
        self.passed: list[str] = []
        self.keys: dict[str, str] = {}
        self.http = httpx.AsyncClient(timeout=20, trust_env=False)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Note the request and hand it on."""
        if scope["type"] == "http":
            self.passed.append(f"{scope['method']} {scope['path']}")
        await self.app(scope, receive, send)

    async def ask(self, method: str, path: str, key: str | None, **content: Any) -> tuple[int, str]:
        """The status, and the answer as far as it came within a moment: one of them has no end."""
        text = ""
        async with self.http.stream(method, path, headers={"x-api-key": key} if key else {}, **content) as answer:
            with anyio.move_on_after(0.2 if path.endswith("/events") else 20):
                async for piece in answer.aiter_text():
                    text += piece
        return answer.status_code, text

    async def ask_route(self, route: Route, memory_id: str, key: str) -> tuple[int, str]:
        """The same, for what is alice's."""
        path = route.path.replace("{id:str}", memory_id).replace("{name:path}", "x")
        content: dict[str, Any] = {"params": query_of(route)} if route.in_query else {}
        if not route.in_query:
            content = {"json": body_of(route.path.removeprefix(API))}
        return await self.ask(route.method, path, key, **content)


@asynccontextmanager
async def walked(memory: Memory, folder: Path) -> AsyncIterator[Walked]:
    """The routes on a real socket."""
    walk, file = Walked(memory), KeyFile(folder / "keys.json")
    for kind, bounds in {**KINDS, "revoked": {"admin": True}}.items():
        key, walk.keys[kind] = await off_loop(file.create, kind, **bounds)
    await off_loop(file.revoke, key.id)
    settings = ServerSettings(port=0, mcp=False, proxy=False, page=False)
    async with walk.http, serving(lambda _: Parts(rest=walk), settings, file) as running:
        walk.http.base_url = httpx.URL(running.urls["rest"])
        yield walk


class Seen(NamedTuple):
    """What a key was told on a route."""

    route: Route
    status: int
    text: str


async def walk_all(walk: Walked, memory_id: str, kind: str) -> list[Seen]:
    """Ask all routes with a key."""
    return [Seen(route, *(await walk.ask_route(route, memory_id, walk.keys[kind]))) for route in routes()]


async def test_no_route_is_open(memory: Memory, tmp_path: Path) -> None:
    """Without a key, with a wrong or a revoked one, each method of each path of the router is refused but /healthz."""
    async with walked(memory, tmp_path) as walk:
        router: Any = walk.app
        table = [(method, route.path) for route in router._app.routes for method in sorted(route.methods)]
        assert len(table) > 200
        for key in (None, "oam_x", walk.keys["bob"] + "x", walk.keys["revoked"]):
            for method, path in table:
                if path == "/healthz" and method in {"GET", "HEAD", "OPTIONS"}:
                    continue
                status, text = await walk.ask(method, path.replace("{", "").replace("}", ""), key)
                assert status in {401, 429}, (method, path, text)
        assert not walk.passed
        assert (await walk.ask("GET", "/healthz", None))[0] == 200


def test_each_change_is_somebodys() -> None:
    """A route that is new stands in one of the lists above, or only reads."""
    assert {name_of(route) for route in routes() if route.changes} == OF_WRITERS | OF_ADMINS


async def test_bob_sees_and_changes_nothing_of_alice(memory: Memory, tmp_path: Path) -> None:
    """With a key that is bound to him, on each route."""
    added = await memory.add(SECRET, user_id="alice", infer=False)
    async with walked(memory, tmp_path) as walk:
        for route, status, text in await walk_all(walk, added.turns[0].id, "bob"):
            assert status in wanted_of(route), (name_of(route), text)
            assert "4711" not in text, name_of(route)
    assert tuple((await memory.list(user_id="alice")).items) == tuple(added.turns)


async def test_an_agent_sees_and_changes_only_its_own(memory: Memory, tmp_path: Path) -> None:
    """Whatever users it has: what alice told nobody or another agent is not among it."""
    kept = [
        *(await memory.add(SECRET, user_id="alice", infer=False)).turns,
        *(await memory.add(SECRET, user_id="alice", agent_id="other", infer=False)).turns,
    ]
    async with walked(memory, tmp_path) as walk:
        for turn in kept:
            for route, status, text in await walk_all(walk, turn.id, "bot"):
                assert status not in {401, 500}, (name_of(route), text)
                assert "{id" not in route.path or status == 404, name_of(route)
                assert "4711" not in text, name_of(route)
    for turn in kept:
        assert await memory.get(turn.id) == turn


async def test_who_may_only_read_changes_nothing(memory: Memory, tmp_path: Path) -> None:
    """And reads all the rest."""
    added = await memory.add(SECRET, user_id="alice", infer=False)
    async with walked(memory, tmp_path) as walk:
        for route, status, text in await walk_all(walk, added.turns[0].id, "reader"):
            assert (status == 403) is route.changes, (name_of(route), text)
            assert status < 500, (name_of(route), text)
    assert tuple((await memory.list(user_id="alice")).items) == tuple(added.turns)


async def test_who_is_no_admin_changes_nothing_that_is_everybodys(memory: Memory, tmp_path: Path) -> None:
    """And all the rest."""
    async with walked(memory, tmp_path) as walk:
        for route in routes():
            added = await memory.add(SECRET, user_id="alice", infer=False)
            status, text = await walk.ask_route(route, added.turns[0].id, walk.keys["writer"])
            assert (status == 403) is (name_of(route) in OF_ADMINS), (name_of(route), text)
            assert status < 500, (name_of(route), text)
