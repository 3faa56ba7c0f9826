"""What every request passes first, on a real socket: host, origin, key, size, rate, and what is told and logged."""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.server import keys
from ollama_async_mem.server.audit import AUDIT_LOGGER
from ollama_async_mem.server.errors import Forbidden, Misdirected, Refused
from ollama_async_mem.server.limits import Buckets
from ollama_async_mem.server.origins import require_host, require_json, require_origin

from .small import off_loop, small_server

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from pytest import LogCaptureFixture, MonkeyPatch  # noqa: PT013

PAGE = "https://notes.example.org"


def is_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that an answer tells."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = response.json()
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    return told


def bearer(key: str) -> dict[str, str]:
    """The headers of a program with a key."""
    return {"authorization": f"Bearer {key}"}


async def test_without_keys_the_owner_of_the_machine_asks(tmp_path: Path) -> None:
    """Everything is allowed, and nothing was asked for; every answer has the headers that a browser should see."""
    async with small_server(tmp_path) as server:
        answer = await server.get()
        assert answer.json()["principal"]["admin"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


@pytest.mark.parametrize("place", ["bearer", "x-api-key", "basic"])
async def test_a_key_says_who_asks_and_goes_no_further(tmp_path: Path, place: str) -> None:
    """In each of its places; the app behind does not get to see it."""
    async with small_server(tmp_path) as server:
        key = await server.key(user_id="alice", may_write=False)
        headers = {
            "bearer": bearer(key),
            "x-api-key": {"x-api-key": key},
            "basic": {"authorization": f"Basic {base64.b64encode(f'me:{key}'.encode()).decode()}"},
        }[place]
        told = (await server.get(**headers)).json()
        assert told["principal"] == {
            "name": "phone",
            "user_id": "alice",
            "agent_id": None,
            "may_write": False,
            "admin": False,
        }
        assert not {"authorization", "x-api-key"} & set(told["headers"])


async def test_the_proxy_takes_a_key_on_the_path_and_leaves_those_of_others(tmp_path: Path) -> None:
    """So that OLLAMA_HOST can hold it; a header for the server behind passes."""
    async with small_server(tmp_path, keys=1) as server:
        key = await server.key()
        await server.http.get(server.proxy_url)  # the file was looked at when the server started
        told = (await server.http.get(f"{server.proxy_url}/{key}/api/tags", headers=bearer("of the cloud"))).json()
        assert (told["app"], told["path"], told["principal"]["name"]) == ("proxy", "/api/tags", "phone")
        assert "authorization" in told["headers"]
        assert (await server.http.get(f"{server.proxy_url}/{key}")).json()["path"] == "/"
        refused = is_problem(await server.http.get(f"{server.proxy_url}/{key}x/api/tags"), 401)
        assert refused["error"] == refused["detail"], "what clients of Ollama read"
        assert (await server.get(f"/{key}/x")).status_code == 401, "only there"


async def test_missing_wrong_and_revoked_keys(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """401 on either listener, with the way to show a key; /healthz is open, on the main listener alone."""
    monkeypatch.setattr(keys, "_FRESH_S", 0.0)
    async with small_server(tmp_path, keys=1) as server:
        key = await server.key()
        assert (await server.get(**bearer(key))).status_code == 200
        for headers in ({}, bearer("x"), bearer(key + "x"), {"x-api-key": key[:-1]}, {"authorization": "Basic ?"}):
            for url in (server.url, server.proxy_url):
                answer = await server.http.get(f"{url}/x", headers=headers)
                is_problem(answer, 401)
                assert answer.headers["www-authenticate"].startswith("Bearer")
        await off_loop(server.keys.revoke, key.split("_")[1])
        is_problem(await server.get(**bearer(key)), 401)
        asked = len(server.rest.seen)
        opened = await server.get("/healthz")
        assert opened.json()["principal"]["may_write"] is False
        assert len(server.rest.seen) == asked + 1
        is_problem(await server.http.get(f"{server.proxy_url}/healthz"), 401)
        is_problem(await server.post("/healthz"), 401)
        is_problem(await server.get("/healthz/../x"), 401)


async def test_a_browser_asks_its_user_for_the_key(tmp_path: Path) -> None:
    """By the one scheme for which browsers have a window."""
    async with small_server(tmp_path, keys=1) as server:
        answer = await server.get("/", accept="text/html,*/*")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")


async def test_wrong_keys_are_counted_by_address(tmp_path: Path) -> None:
    """After some, the answer is to wait; whoever has a good key is not kept out by them."""
    async with small_server(tmp_path, failures_per_minute=3) as server:
        key = await server.key()
        for _ in range(3):
            is_problem(await server.get(**bearer("oam_x_y")), 401)
        answer = await server.get(**bearer("oam_x_y"))
        assert is_problem(answer, 429)["retry_after_s"] > 0
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        assert (await server.get(**bearer(key))).status_code == 200
        is_problem(await server.get(), 401)


async def test_a_key_has_so_many_requests_a_minute(tmp_path: Path) -> None:
    """Another key has its own; both listeners count together."""
    async with small_server(tmp_path, requests_per_minute=3) as server:
        one, other = await server.key(), await server.key("desk")
        for url in (server.url, server.proxy_url, server.url):
            assert (await server.http.get(f"{url}/x", headers=bearer(one))).status_code == 200
        answer = await server.get(**bearer(one))
        is_problem(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        assert (await server.get(**bearer(other))).status_code == 200


async def test_so_many_requests_at_once(tmp_path: Path) -> None:
    """Of a key, and in all; a place that is free again is taken again."""
    async with (
        small_server(tmp_path, concurrency=2, concurrency_per_key=1) as server,
        anyio.create_task_group() as tasks,
    ):
        one, other, third = await server.key(), await server.key("desk"), await server.key("car")
        tasks.start_soon(lambda: server.get("/hold", **bearer(one)))
        await server.rest.held.wait()
        answer = await server.get(**bearer(one))
        assert "this key" in is_problem(answer, 503)["detail"]
        assert answer.headers["retry-after"] == "1"
        server.rest.held = anyio.Event()
        tasks.start_soon(lambda: server.get("/hold", **bearer(other)))
        await server.rest.held.wait()
        assert "the server" in is_problem(await server.get(**bearer(third)), 503)["detail"]
        assert (await server.get("/healthz")).status_code == 200
        server.rest.go.set()
        await server.rest.gone.wait()


async def test_a_place_is_free_again_when_the_client_vanishes(tmp_path: Path) -> None:
    """The app may be told later, but at the latest when it sends."""
    async with small_server(tmp_path, concurrency=1) as server:
        async with server.http.stream("GET", f"{server.url}/hold"):
            await server.rest.held.wait()
            is_problem(await server.get(), 503)
        server.rest.go.set()
        await server.rest.gone.wait()
        assert (await server.get()).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]:80", "LOCALHOST.:1", "memory.example.org:8443"])
async def test_hosts_of_this_server(tmp_path: Path, host: str) -> None:
    """The loopback's names, the address, and those that are allowed."""
    async with small_server(tmp_path, allow_host=("Memory.example.org",)) as server:
        assert (await server.get(host=host)).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example.org", "10.0.0.1", "localhost.evil.org", "", "a@localhost", "localhost/x"]
)
async def test_a_foreign_host_is_refused_everywhere(tmp_path: Path, host: str) -> None:
    """It is how a page reaches a server of this machine under a name of its own; /healthz is no exception."""
    async with small_server(tmp_path) as server:
        for url in (f"{server.url}/x", f"{server.url}/healthz", f"{server.proxy_url}/api/tags"):
            is_problem(await server.http.get(url, headers={"host": host}), 421)
        assert not server.rest.seen + server.proxy.seen


async def test_pages_of_others(tmp_path: Path) -> None:
    """Only the same origin, and those that are allowed, which may also read the answers and ask before."""
    async with small_server(tmp_path, allow_origin=(PAGE,)) as server:
        own = await server.post(origin=server.url, sec_fetch_site="same-origin")
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers
        for origin in ("http://localhost:1", "null", "https://notes.example.org.evil.org", server.proxy_url, "x"):
            is_problem(await server.get(origin=origin), 403)
            is_problem(await server.http.request("OPTIONS", server.url, headers={"origin": origin}), 403)
        allowed = await server.post(origin=PAGE, sec_fetch_site="cross-site")
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert allowed.headers["vary"] == "origin"
        assert allowed.headers["cross-origin-resource-policy"] == "cross-origin"
        refused = await server.post(origin=PAGE, x_api_key="oam_")
        assert refused.headers["access-control-allow-origin"] == PAGE, "it may read why"


async def test_a_preflight_needs_no_key(tmp_path: Path) -> None:
    """Browsers send none with it; and it reaches no app."""
    async with small_server(tmp_path, keys=1, allow_origin=(PAGE,)) as server:
        asks = {"access-control-request-method": "PATCH", "access-control-request-headers": "authorization"}
        answer = await server.http.options(f"{server.url}/x", headers={"origin": PAGE, **asks})
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "PATCH" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "authorization"
        is_problem(await server.http.options(f"{server.url}/x", headers={"origin": "https://evil.org", **asks}), 403)
        assert not server.rest.seen


async def test_what_a_browser_calls_cross_site(tmp_path: Path) -> None:
    """A link from anywhere is followed; nothing else from there is answered."""
    async with small_server(tmp_path) as server:
        is_problem(await server.post(sec_fetch_site="cross-site"), 403)
        is_problem(await server.get(sec_fetch_site="cross-site", sec_fetch_mode="no-cors"), 403)
        is_problem(await server.post(sec_fetch_site="cross-site", sec_fetch_mode="navigate"), 403)
        assert (await server.get("/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")).status_code == 200
        assert (await server.post(sec_fetch_site="same-origin")).status_code == 200


async def test_bodies_that_only_forms_send(tmp_path: Path) -> None:
    """Are refused, also those without a type; the proxy takes what `curl -d` sends."""
    async with small_server(tmp_path) as server:
        forms = ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "")
        for kind in forms:
            headers = {"content-type": kind} if kind else {}
            is_problem(await server.http.post(server.url, content=b"{}", headers=headers), 415)
            assert (await server.http.post(server.proxy_url, content=b"{}", headers=headers)).status_code == 200
        for kind in ("application/json; charset=utf-8", "application/x-ndjson", "Application/Merge-Patch+JSON"):
            answer = await server.http.patch(server.url, content=b"{}", headers={"content-type": kind})
            assert answer.status_code == 200
        assert (await server.http.delete(server.url)).status_code == 200, "there is no body to have a type"


async def pieces(size: int, of: int = 1000) -> Any:
    """A body without a length of its own."""
    for _ in range(size // of):
        yield b" " * of


async def test_bodies_that_are_too_large(tmp_path: Path) -> None:
    """By their own word, or when it shows; on the proxy the limit is another."""
    json_type = {"content-type": "application/json"}
    async with small_server(tmp_path, body_bytes=10_000, proxy_body_bytes=100_000) as server:
        is_problem(await server.http.post(server.url, content=b" " * 10_001, headers=json_type), 413)
        is_problem(await server.http.post(server.url, content=b" " * 5_000_000, headers=json_type), 413)
        assert not server.rest.seen
        is_problem(await server.http.post(server.url, content=pieces(11_000), headers=json_type), 413)
        assert not server.rest.seen
        assert (await server.http.post(server.url, content=b" " * 10_000, headers=json_type)).json()["size"] == 10_000
        assert (await server.http.post(server.proxy_url, content=pieces(100_000))).json()["size"] == 100_000
        is_problem(await server.http.post(server.proxy_url, content=pieces(101_000)), 413)


async def test_behind_a_reverse_proxy(tmp_path: Path) -> None:
    """A path of its own, left or taken away; the client's address from proxies that are trusted alone."""
    forwarded = {"x-forwarded-for": "9.9.9.9", "x-forwarded-proto": "https"}
    trusted: dict[str, Any] = {
        "base_path": "/memory/",
        "trusted_proxy": ("127.0.0.0/8",),
        "allow_host": ("example.org",),
    }
    async with small_server(tmp_path, keys=1, **trusted) as server:
        key = await server.key()
        (await server.get(**forwarded)).json()
        for path in ("/memory/x", "/x"):
            told = (await server.get(path, **forwarded, **bearer(key))).json()
            assert (told["path"], told["client"], told["scheme"]) == ("/x", "9.9.9.9", "https")
        assert (await server.get("/memory", **bearer(key))).json()["path"] == "/"
        assert (await server.get("/memoryx", **bearer(key))).json()["path"] == "/memoryx"
        assert (await server.get("/memory/healthz")).status_code == 200
        own = {"origin": "https://example.org", "host": "example.org", **forwarded, **bearer(key)}
        assert (await server.post(**own)).status_code == 200
        is_problem(await server.post(**{**own, "origin": "http://example.org"}), 403)
    async with small_server(tmp_path / "2", keys=1) as server:
        key = await server.key()
        await server.get()
        told = (await server.get(**forwarded, **bearer(key))).json()
        assert (told["client"], told["scheme"]) == ("127.0.0.1", "http")


async def test_without_keys_nothing_is_answered_through_a_proxy(tmp_path: Path) -> None:
    """Whoever comes from outside would be the owner of the machine."""
    async with small_server(tmp_path) as server:
        for header in ("x-forwarded-for", "forwarded", "x-real-ip"):
            is_problem(await server.get(**{header: "9.9.9.9"}), 403)
        assert not server.rest.seen


async def test_each_change_is_one_line(tmp_path: Path, caplog: LogCaptureFixture) -> None:
    """Of who and what, also of those that were refused; never of a text, a query or a key."""
    caplog.set_level(logging.INFO, AUDIT_LOGGER)
    async with small_server(tmp_path) as server:
        key = await server.key()
        await server.get("/x", **bearer(key))
        await server.post("/read", **bearer(key))
        await server.post("/changed?q=my+secret", json={"text": "my secret"}, **bearer(key))
        await server.http.delete(f"{server.proxy_url}/{key}/api/delete")
        await server.post("/changed", json={"text": "my secret"})
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == AUDIT_LOGGER]
    key_id = key.split("_")[1]
    told = [(line["key"], line["method"], line["route"], line["ids"], line["status"]) for line in lines]
    assert told == [
        (key_id, "POST", "/changed", ["m1"], 200),
        (key_id, "DELETE", "/api/delete", [], 200),
        ("-", "POST", "/changed", [], 401),
    ]
    assert {line["address"] for line in lines} == {"127.0.0.1"}
    assert "secret" not in caplog.text
    assert key not in caplog.text


@given(host=st.text(max_size=30))
def test_any_host_header_is_taken_or_misdirected(host: str) -> None:
    """Nothing else is raised, and what is taken names the loopback, the address or what is allowed."""
    try:
        require_host(host, {"memory.example.org"}, "10.0.0.1")
    except Misdirected:
        return
    assert any(name in host.lower() for name in ("localhost", "127.", "::", "memory.example.org", "10.0.0.1"))


@given(origin=st.text(max_size=30), host=st.sampled_from(["localhost:11436", "x.org", "[::1]:1", ""]))
def test_only_the_same_origin_is_taken(origin: str, host: str) -> None:
    """Nothing else is raised than Forbidden."""
    try:
        require_origin(origin, "http", host, ())
    except Forbidden:
        assert origin != f"http://{host}" or not host
    else:
        assert origin.lower().startswith("http://")


@given(kind=st.binary(max_size=30))
def test_any_type_is_json_or_refused(kind: bytes) -> None:
    """Nothing else is raised."""
    try:
        require_json({b"content-length": b"2", b"content-type": kind})
    except Refused as exc:
        assert exc.status == 415
    else:
        assert b"json" in kind.lower()


def test_a_bucket_fills_as_time_passes() -> None:
    """So many a minute, no more saved up than that, and the names of strangers do not pile up."""
    now = [0.0]
    buckets = Buckets(60, most=2, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(60)] == [0.0] * 60
    assert buckets.take("a") == pytest.approx(1.0)
    now[0] += 0.5
    assert buckets.take("a") == pytest.approx(0.5)
    now[0] += 0.5
    assert buckets.take("a") == 0.0
    now[0] += 1000
    assert sum(buckets.take("a") == 0.0 for _ in range(100)) == 60
    for name in "bcd":
        assert buckets.take(name) == 0.0
    assert len(buckets._buckets) == 2
