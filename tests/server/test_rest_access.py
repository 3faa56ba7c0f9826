"""Whose memories a key reaches by way of REST: its own, and nobody else's, on every route."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ollama_async_mem.server.access import Principal
from ollama_async_mem.server.rest import rest_app
from ollama_async_mem.server.rest.app import routes
from server.running import client_of

if TYPE_CHECKING:
    from ollama_async_mem import Memory
    from ollama_async_mem.server.rest.routing import Route

API = "/api/v1"
BOB = Principal(name="bob", user_id="bob")
READER = Principal(name="reader", may_write=False)
SECRET = "the safe opens with 4711"
OF_ALL_ANSWERS = ["/healthz", "/readyz", "/models", "/models/running", "/models/show/x"]


def body_of(path: str) -> dict[str, Any]:
    """A request that is good, and about alice where it is about anybody."""
    bodies: dict[str, dict[str, Any]] = {
        "/memories": {"messages": "safe", "user_id": "alice"},
        "/memories/batch": {"additions": [{"messages": "safe", "user_id": "alice"}]},
        "/chat": {"messages": "safe", "user_id": "alice"},
        "/search": {"query": "safe", "user_id": "alice"},
        "/context": {"query": "safe", "user_id": "alice"},
        "/configuration": {"llm": {"model": "x"}},
    }
    return bodies.get(path, {"text": "mine now"} if "{" in path else {"model": "x"})


def query_of(route: Route) -> dict[str, str]:
    """The same for a query."""
    fields = route.takes.__struct_fields__ if route.takes else ()
    good = {"user_id": "alice", "confirm": "true", "query": "safe"}
    return {name: value for name, value in good.items() if name in fields}


def wanted_of(route: Route) -> set[int]:
    """Which statuses bob may see for what is alice's."""
    path = route.path.removeprefix(API)
    if "{id" in path:
        return {404}
    if path in OF_ALL_ANSWERS or path.replace("{name:path}", "x") in OF_ALL_ANSWERS:
        return {200}
    return {200} if (route.method, path) == ("GET", "/configuration") else {403}


@pytest.mark.parametrize("route", routes(), ids=lambda route: f"{route.method} {route.path}")
async def test_no_route_reaches_the_memories_of_another(memory: Memory, route: Route) -> None:
    """A new route is walked too: its answer must be one that is known here to be safe."""
    added = await memory.add(SECRET, user_id="alice", infer=False)
    key = added.turns[0].id
    path = route.path.removeprefix(API)
    address = route.path.replace("{id:str}", key).replace("{name:path}", "x")
    async with client_of(rest_app(memory, allow_config=True), BOB) as client:
        answer = await client.request(
            route.method,
            address,
            params=query_of(route) if route.in_query else None,
            json=None if route.in_query else body_of(path),
        )
    assert answer.status_code in wanted_of(route), answer.text
    assert "4711" not in answer.text
    assert (await memory.get(key)) == added.turns[0]
    assert (await memory.count()).turns == 1


async def test_a_bound_key_need_not_name_its_user(memory: Memory) -> None:
    """What it adds is the user's, and what it finds, lists, counts and exports is the user's alone."""
    await memory.add(SECRET, user_id="alice", infer=False)
    async with client_of(rest_app(memory), BOB) as client:
        added = (await client.post(f"{API}/memories", json={"messages": "my safe is red"})).json()
        assert added["turns"][0]["scope"] == {"user_id": "bob", "agent_id": None, "run_id": None}
        key = added["turns"][0]["id"]
        found = (await client.get(f"{API}/search", params={"query": "safe"})).json()
        assert [hit["memory"]["id"] for hit in found["hits"]] == [key]
        assert [item["id"] for item in (await client.get(f"{API}/memories")).json()["items"]] == [key]
        assert (await client.get(f"{API}/counts")).json()["turns"] == 1
        assert [item["scope"]["user_id"] for item in (await client.get(f"{API}/scopes")).json()] == ["bob"]
        lines = [json.loads(line) for line in (await client.get(f"{API}/export")).text.splitlines()]
        assert [line["memory"]["id"] for line in lines if line.get("line") == "memory"] == [key]
        assert [event["kind"] for event in (await client.get(f"{API}/memories/{key}/history")).json()] == ["added"]
        assert (await client.patch(f"{API}/memories/{key}", json={"text": "it is blue"})).status_code == 200
        assert (await client.delete(f"{API}/memories/{key}")).status_code == 204
        assert (await client.get(f"{API}/memories/{key}/history")).status_code == 404
        assert (await client.delete(f"{API}/memories", params={"confirm": "true"})).json() == {"deleted": 0}
    assert (await memory.count()).turns == 1


@pytest.mark.parametrize("route", [route for route in routes() if route.changes], ids=lambda r: f"{r.method} {r.path}")
async def test_a_key_that_may_only_read_changes_nothing(memory: Memory, route: Route) -> None:
    """On every route that may change something."""
    added = await memory.add(SECRET, user_id="alice", infer=False)
    path = route.path.removeprefix(API)
    address = route.path.replace("{id:str}", added.turns[0].id).replace("{name:path}", "x")
    async with client_of(rest_app(memory, allow_config=True), READER) as client:
        answer = await client.request(
            route.method,
            address,
            params=query_of(route) if route.in_query else None,
            json=None if route.in_query else body_of(path),
        )
    assert answer.status_code == 403, answer.text
    assert (await memory.get(added.turns[0].id)) == added.turns[0]


async def test_configuration_tells_what_the_key_allows(memory: Memory) -> None:
    """And nothing of where the store or Ollama is."""
    async with client_of(rest_app(memory), BOB) as client:
        told = (await client.get(f"{API}/configuration")).json()
    assert told["you"] == {"name": "bob", "user_id": "bob", "agent_id": None, "may_write": True, "admin": False}
    assert memory.store.location not in json.dumps(told)
    assert memory.client.url not in json.dumps(told)


async def test_who_is_bound_to_a_user_imports_nothing(memory: Memory) -> None:
    """A file may hold the memories of anybody: an admin of one user, or one that may only read, is refused."""
    lines = b'{"format": "ollama-async-mem", "version": 1}\n'
    for who in (Principal(name="a", user_id="alice", admin=True), Principal(name="r", may_write=False, admin=True)):
        async with client_of(rest_app(memory), who) as client:
            headers = {"content-type": "application/x-ndjson"}
            refused = await client.post(f"{API}/import", content=lines, headers=headers)
            assert refused.status_code == 403
