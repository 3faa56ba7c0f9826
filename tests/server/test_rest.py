"""The routes of REST: each does what the library does, and says what went wrong as a problem."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from fakes import ScriptedOllama, error

from ollama_async_mem import Memory
from ollama_async_mem.server.rest import page, rest_app
from ollama_async_mem.server.rest.app import routes
from ollama_async_mem.stores.sqlite import SQLiteStore
from server.running import client_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

API = "/api/v1"
NUTS = "I'm allergic to peanuts"


def nested(depth: int) -> bytes:
    """Lists in lists."""
    return b"[" * depth + b"]" * depth


async def added(rest: httpx.AsyncClient, text: str = NUTS, **more: Any) -> str:
    """Add a message; returns its id."""
    answer = await rest.post(f"{API}/memories", json={"messages": text, "user_id": "alice", "infer": False, **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["turns"][0]["id"])


async def test_a_memory_is_added_found_changed_and_destroyed(rest: httpx.AsyncClient) -> None:
    """The whole life of a memory."""
    key = await added(rest, metadata={"topic": "food"}, timestamp="2026-03-01T10:00:00Z")
    found = (await rest.post(f"{API}/search", json={"query": "which nuts?", "user_id": "alice"})).json()
    (hit,) = found["hits"]
    assert (hit["memory"]["id"], hit["memory"]["kind"], hit["memory"]["at"]) == (key, "turn", "2026-03-01T10:00:00Z")
    changed = await rest.patch(f"{API}/memories/{key}", json={"text": "I love peanuts", "metadata": {"sure": True}})
    assert changed.json()["text"] == "I love peanuts"
    assert (await rest.get(f"{API}/memories/{key}")).json()["metadata"] == {"topic": "food", "sure": True}
    assert (await rest.delete(f"{API}/memories/{key}")).status_code == 204
    assert (await rest.get(f"{API}/memories/{key}")).status_code == 404
    history = (await rest.get(f"{API}/memories/{key}/history")).json()
    assert [(event["kind"], event["actor"]) for event in history] == [
        ("added", None),
        ("updated", "local"),
        ("deleted", "local"),
    ]


async def test_messages_come_in_all_shapes(rest: httpx.AsyncClient) -> None:
    """A text, a message, and a list of both, with times, names, parts and tool calls."""
    messages = [
        "hello",
        {"role": "assistant", "content": "hi", "timestamp": "2026-03-01T10:00:00Z"},
        {"content": [{"type": "text", "text": "in parts"}], "name": "Anna"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"at": 1}}}]},
    ]
    answer = await rest.post(f"{API}/memories", json={"messages": messages, "user_id": "alice", "infer": False})
    turns = answer.json()["turns"]
    assert [turn["text"] for turn in turns] == ["hello", "hi", "in parts", 'calls look({"at":1})']
    assert (turns[2]["speaker"], turns[1]["at"]) == ("Anna", "2026-03-01T10:00:00Z")


async def test_the_same_key_stores_once(rest: httpx.AsyncClient) -> None:
    """Alone and in a batch, which answers in order."""
    key = await added(rest, key="line-1")
    additions = [{"messages": text, "user_id": "alice", "key": name} for text, name in ((NUTS, "line-1"), ("tea", "2"))]
    again, new = (await rest.post(f"{API}/memories/batch", json={"additions": additions})).json()
    assert (again["is_new"], again["turns"][0]["id"], new["is_new"]) == (False, key, True)


async def test_a_listing_goes_on_where_it_ended(rest: httpx.AsyncClient) -> None:
    """Page by page, with filters as JSON in the query."""
    keys = [await added(rest, f"line {n}", metadata={"odd": n % 2}) for n in range(5)]
    seen: list[str] = []
    query: dict[str, Any] = {
        "user_id": "alice",
        "limit": 2,
        "sort": "created_at",
        "filters": json.dumps({"odd": {"lt": 2}}),
    }
    while True:
        page = (await rest.get(f"{API}/memories", params=query)).json()
        seen += [item["id"] for item in page["items"]]
        if page["cursor"] is None:
            break
        query["cursor"] = page["cursor"]
    assert seen == keys
    odd = await rest.get(f"{API}/memories", params={"user_id": "alice", "filters": '{"odd": 1}', "kinds": ["turn"]})
    assert len(odd.json()["items"]) == 2


async def test_memories_are_destroyed_by_scope_only_when_that_is_confirmed(rest: httpx.AsyncClient) -> None:
    """Without a word of confirmation nothing happens."""
    await added(rest)
    for confirm in ({}, {"confirm": "false"}):
        refused = await rest.delete(f"{API}/memories", params={"user_id": "alice", **confirm})
        assert refused.status_code == 400
        assert "confirm" in refused.json()["detail"]
    assert (await rest.get(f"{API}/counts")).json() == {"turns": 1, "facts": 0}
    done = await rest.delete(f"{API}/memories", params={"user_id": "alice", "confirm": "true"})
    assert done.json() == {"deleted": 1}


async def test_search_by_query_string_is_search(rest: httpx.AsyncClient) -> None:
    """GET and POST find the same, and explain it the same."""
    await added(rest)
    asked: dict[str, Any] = {
        "query": "peanuts",
        "user_id": "alice",
        "limit": 3,
        "explain": True,
        "kinds": ["turn", "fact"],
    }
    posted = (await rest.post(f"{API}/search", json=asked)).json()
    got = (await rest.get(f"{API}/search", params={**asked, "explain": "true"})).json()
    assert [hit["memory"] for hit in got["hits"]] == [hit["memory"] for hit in posted["hits"]]
    assert got["hits"][0]["parts"]


async def test_context_is_lines_for_a_prompt(rest: httpx.AsyncClient) -> None:
    """Dated lines, and nothing of what is known."""
    await added(rest, timestamp="2026-03-01T10:00:00Z")
    asked = {"query": "peanuts", "user_id": "alice"}
    assert (await rest.post(f"{API}/context", json=asked)).json()["text"] == f"[1 March 2026] user: {NUTS}"
    assert (await rest.post(f"{API}/context", json={**asked, "known": [NUTS]})).json() == {"text": ""}


async def test_scopes_are_listed_one_page_after_the_other(rest: httpx.AsyncClient) -> None:
    """The scope of the last one fetches the next."""
    for run in "abc":
        await added(rest, run_id=run)
    first = (await rest.get(f"{API}/scopes", params={"limit": 2})).json()
    rest_of = (await rest.get(f"{API}/scopes", params={"after": json.dumps(first[-1]["scope"])})).json()
    assert [item["scope"]["run_id"] for item in first + rest_of] == ["a", "b", "c"]


async def test_models_are_listed_shown_loaded_and_deleted(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """Also where their names have slashes."""
    server.settings.models.append("hf.co/bartowski/x:Q4")
    server.settings.only_listed = True
    names = [model["name"] for model in (await rest.get(f"{API}/models")).json()]
    assert names == server.settings.models
    assert (await rest.get(f"{API}/models/running")).json() == []
    shown = await rest.get(f"{API}/models/show/hf.co/bartowski/x:Q4")
    assert "completion" in shown.json()["capabilities"]
    assert (await rest.post(f"{API}/models/load", json={"model": "llama3.2"})).status_code == 204
    assert (await rest.post(f"{API}/models/unload", json={"model": "llama3.2"})).status_code == 204
    assert (await rest.delete(f"{API}/models/hf.co/bartowski/x:Q4")).status_code == 204
    gone = await rest.get(f"{API}/models/show/hf.co/bartowski/x:Q4")
    assert (gone.status_code, gone.json()["type"]) == (404, "urn:ollama-async-mem:problem:model-not-found")


async def test_settings_change_while_it_runs(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """The next answer is by the new model; what cannot be is refused, and changes nothing."""
    before = (await rest.get(f"{API}/configuration")).json()
    assert (before["llm"]["model"], before["you"]["admin"], before["may_change"]) == ("llama3.2", True, True)
    changed = await rest.patch(f"{API}/configuration", json={"llm": {"model": "other", "temperature": None}})
    assert changed.json()["llm"].get("temperature") is None
    wrong = await rest.patch(f"{API}/configuration", json={"llm": {"temperature": -1}})
    assert wrong.status_code == 400
    assert "temperature" in wrong.json()["detail"]
    await rest.post(f"{API}/chat", json={"messages": "hi", "user_id": "alice"})
    assert server.requests_to("POST /api/chat")[0].json["model"] == "other"


async def test_settings_are_fixed_unless_that_is_allowed(memory: Memory) -> None:
    """By default nobody changes them."""
    async with client_of(rest_app(memory)) as client:
        assert not (await client.get(f"{API}/configuration")).json()["may_change"]
        refused = await client.patch(f"{API}/configuration", json={"llm": {"model": "other"}})
    assert refused.status_code == 403
    assert "--allow-config" in refused.json()["detail"]
    assert memory.llm_model == "llama3.2"


async def test_statistics_and_jobs(rest: httpx.AsyncClient) -> None:
    """What waits is counted, listed and tried again."""
    await added(rest, infer="background")
    assert (await rest.get(f"{API}/statistics")).json()["store"]["jobs_queued"] == 1
    (job,) = (await rest.get(f"{API}/jobs")).json()
    assert (job["state"], job["scope"]["user_id"]) == ("queued", "alice")
    assert (await rest.post(f"{API}/jobs/retry")).json() == {"jobs": 0}


async def test_a_body_may_come_in_pieces(rest: httpx.AsyncClient) -> None:
    """Of any size, the last of them empty or not."""
    await added(rest)
    whole = b'{"query": "peanuts", "user_id": "alice"}'

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for begin in range(0, len(whole), size):
            yield whole[begin : begin + size]

    for size in (1, 7, len(whole) - 1, len(whole)):
        answer = await rest.post(f"{API}/search", content=pieces(size), headers={"content-type": "application/json"})
        assert (answer.status_code, len(answer.json()["hits"])) == (200, 1)


async def test_what_is_exported_is_imported(rest: httpx.AsyncClient, server: ScriptedOllama, tmp_path: Path) -> None:
    """As a download, into a memory that has none of it; the second time nothing is new."""
    await added(rest)
    download = await rest.get(f"{API}/export", params={"user_id": "alice"})
    assert download.headers["content-disposition"] == 'attachment; filename="memories.jsonl"'
    async with Memory(tmp_path / "other.db", host=server.url) as other, client_of(rest_app(other)) as client:
        reports = [(await client.post(f"{API}/import", content=download.content)).json() for _ in range(2)]
        assert [(report["turns"], report["new"]) for report in reports] == [(1, 1), (1, 0)]
        cut = await client.post(f"{API}/import", content=download.content[:-20])
    assert (cut.status_code, cut.json()["title"]) == (400, "The request is not what it should be")
    assert str(tmp_path) not in cut.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs/openapi.json"])
async def test_the_server_tells_of_itself(rest: httpx.AsyncClient, path: str) -> None:
    """That it lives, that its parts answer, and what it can do."""
    answer = await rest.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


async def test_the_page_is_a_folder_of_files(
    rest: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own files, of the types it may have, and nothing beside the folder; scripts of others do not run."""
    monkeypatch.setattr(page, "_FOLDER", tmp_path / "ui")
    assert (await rest.get("/")).status_code == 404
    (tmp_path / "ui").mkdir()
    (tmp_path / "secret.js").write_text("secret")
    for name in ("index.html", "app.js", "notes.txt"):
        (tmp_path / "ui" / name).write_text(name)
    answer = await rest.get("/")
    assert (answer.text, answer.headers["content-type"]) == ("index.html", "text/html; charset=utf-8")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert (await rest.get("/ui/app.js")).text == "app.js"
    for name in ("notes.txt", "other.js", "..%2Fsecret.js", "%2e%2e/secret.js", "%00.js", "a" * 300 + ".js"):
        assert (await rest.get(f"/ui/{name}")).status_code == 404, name


async def test_it_is_not_ready_without_ollama(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """It lives all the same, and is ready again when Ollama is."""
    await server.stop()
    away = await rest.get("/readyz")
    assert (away.status_code, away.json()) == (503, {"store": True, "ollama": False})
    assert (await rest.get("/healthz")).json() == {"status": "ok"}
    await server.start()
    assert (await rest.get("/readyz")).status_code == 200


async def test_figures_count_routes_and_not_paths(rest: httpx.AsyncClient) -> None:
    """However many ids are asked for, they are one line; so are paths that lead nowhere."""
    await added(rest)
    for n in range(3):
        await rest.get(f"{API}/memories/{n}")
        await rest.get(f"/nowhere/{n}")
    figures = (await rest.get("/metrics")).text
    assert 'requests_total{method="GET",route="/api/v1/memories/{id}",status="404"} 3.0' in figures
    assert 'requests_total{method="GET",route="other",status="404"} 3.0' in figures
    assert 'ollama_async_mem_store{what="turns"} 1.0' in figures
    assert 'ollama_async_mem_embedding{what="texts"} 1.0' in figures
    assert "process_resident_memory_bytes" in figures


async def test_the_description_needs_nothing_from_elsewhere(rest: httpx.AsyncClient) -> None:
    """The page of all routes has no script, loads nothing, and says so to the browser."""
    page = await rest.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert all(word not in page.text for word in ("<script", "src=", "http://", "https://"))
    document = (await rest.get("/docs/openapi.json")).json()
    for route in routes():
        path = route.path.replace(":str", "").replace(":path", "")
        operation = document["paths"][path][route.method.lower()]
        assert operation["summary"]
        assert path in page.text
    bodies = [
        content
        for item in document["paths"].values()
        for operation in item.values()
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
        if kind == "application/json"
    ]
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(names)) == len(names)
    assert {"post_memories_batch", "patch_memories_id", "delete_models_name", "get_healthz"} <= set(names)
    assert bodies
    assert all("example" in content for content in bodies)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"messages": "x", "user": "a"}', "unknown field `user`"),
        (b'{"user_id": "a"}', "missing required field `messages`"),
        (b'{"messages": "x"}', "say whose memory it is"),
        (b'{"messages": "  ", "user_id": "a"}', "blank"),
        (b'{"messages": "x", "user_id": "a", "infer": true}', "infer"),
        (b'{"messages": "x", "user_id": "a", "timestamp": "soon"}', "timestamp"),
        (json.dumps({"messages": "x" * 1_000_001, "user_id": "a"}).encode(), "length <= 1000000"),
        (b'{"messages": "x", "user_id": "a", "metadata": {"a": %s}}' % nested(100), "deeper than 100 levels"),
        (b'{"messages": "x", "user_id": "a", "metadata": {"a": %s}}' % nested(100_000), "nested too deep"),
        (b'{"messages": "x", "user_id": "a", "metadata": {"a": 1e999}}', "out of range"),
        (b'{"messages": "\\ud800", "user_id": "a"}', "malformed"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(rest: httpx.AsyncClient, body: bytes, said: str) -> None:
    """As a problem with status 400; nothing is stored."""
    answer = await rest.post(f"{API}/memories", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert said in answer.json()["detail"]
    assert (await rest.get(f"{API}/counts")).json()["turns"] == 0


@pytest.mark.parametrize(
    "query",
    [
        {"query": "x"},
        {"user_id": "a"},
        {"query": "x", "user_id": "a", "limit": 1001},
        {"query": "x", "user_id": "a", "limit": 0},
        {"query": "x", "user_id": "a", "limit": "many"},
        {"query": "x", "user_id": ["a", "b"]},
        {"query": "x", "user_id": "a", "kinds": "thought"},
        {"query": "x", "user_id": "a", "filters": "{"},
        {"query": "x", "user_id": "a", "filters": "[" * 5000},
        {"query": "x", "user_id": "a", "filters": '{"at": {"near": 1}}'},
        {"query": "x", "user_id": "a", "min_score": "nan"},
        {"query": "x", "user_id": "a", "colour": "red"},
    ],
)
async def test_a_wrong_query_is_refused(rest: httpx.AsyncClient, query: dict[str, Any]) -> None:
    """Whether a value, its type or its name is wrong."""
    answer = await rest.get(f"{API}/search", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


async def test_what_is_not_there_and_what_is_not_done(rest: httpx.AsyncClient) -> None:
    """404 and 405 are problems too, and 405 says what can be done."""
    head = await rest.head("/healthz")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "15")
    nowhere = await rest.get(f"{API}/nothing")
    assert (nowhere.status_code, nowhere.json()) == (404, {"status": 404, "type": "about:blank", "title": "Not Found"})
    wrong = await rest.put(f"{API}/memories", content=b"{}")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "DELETE, GET, HEAD, POST")
    assert wrong.headers["content-type"] == "application/problem+json"


async def test_ollama_down_is_a_problem_that_passes(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """503 with the time to come back, without its address; what is found by words is found all the same."""
    await added(rest)
    await server.stop()
    away = await rest.post(f"{API}/memories", json={"messages": "more", "user_id": "alice"})
    assert (away.status_code, away.headers["retry-after"]) == (503, "5")
    assert str(server.port) not in away.text
    found = (await rest.post(f"{API}/search", json={"query": "new peanuts", "user_id": "alice"})).json()
    assert (len(found["hits"]), found["degraded"]) == (1, ["dense"])
    chat = await rest.post(f"{API}/chat", json={"messages": "hi", "user_id": "alice"})
    recalled, broken = map(json.loads, chat.text.splitlines())
    assert recalled["event"] == "recalled"
    assert broken["problem"]["type"] == "urn:ollama-async-mem:problem:ollama-unreachable"


async def test_a_locked_store_is_a_problem_that_passes(server: ScriptedOllama, tmp_path: Path) -> None:
    """503 with the time to come back; what was there is still found, and the same request succeeds later."""
    path = tmp_path / "memory.db"
    store = SQLiteStore(path, busy_timeout_s=0.05)
    async with Memory(store, host=server.url) as memory, client_of(rest_app(memory)) as client:
        await added(client)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        asked = {"messages": "more", "user_id": "alice", "infer": False}
        refused = await client.post(f"{API}/memories", json=asked)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["type"] == "urn:ollama-async-mem:problem:store-busy"
        assert len((await client.get(f"{API}/memories?user_id=alice")).json()["items"]) == 1
        other.close()
        assert (await client.post(f"{API}/memories", json=asked)).status_code == 201


async def test_a_missing_model_is_named(rest: httpx.AsyncClient, server: ScriptedOllama) -> None:
    """In the stream, behind what was recalled."""
    server.enqueue("POST /api/chat", error(404, "model 'llama3.2' not found"))
    answer = await rest.post(f"{API}/chat", json={"messages": "hi", "user_id": "alice"})
    *_, broken = map(json.loads, answer.text.splitlines())
    assert broken["problem"]["type"] == "urn:ollama-async-mem:problem:model-not-found"
    assert "llama3.2" in broken["problem"]["detail"]
