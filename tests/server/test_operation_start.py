"""The command as people start it: parts that are left out, TLS, a base path, proxies in front, and wrong options."""

from __future__ import annotations

import json
import socket
import ssl
import sys
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
import trustme

from ollama_async_mem.cli.main import USAGE
from ollama_async_mem.server.keys import KeyFile

from .processes import API, served
from .small import off_loop

if TYPE_CHECKING:
    from pathlib import Path

    from fakes import ScriptedOllama

LINES = {"content-type": "application/x-ndjson"}
NOTHING = httpx.codes.NOT_FOUND


async def test_tls_by_flags(server: ScriptedOllama, tmp_path: Path) -> None:
    """Both listeners speak it; whoever does not is not answered."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    pem = tmp_path / "both.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(pem)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with (
        served(server.url, tmp_path / "memory.db", "--tls-cert", str(pem)) as process,
        httpx.AsyncClient(verify=trust, trust_env=False) as http,
    ):
        assert all(url.startswith("https://127.0.0.1:") for url in process.urls.values())
        assert (await http.get(f"{process.urls['REST']}/readyz")).json() == {"store": True, "ollama": True}
        assert (await http.get(f"{process.proxy}/api/version")).status_code == httpx.codes.OK
        with pytest.raises(httpx.TransportError):
            await http.get(f"{process.urls['REST'].replace('https', 'http')}/readyz")


async def test_a_base_path(server: ScriptedOllama, tmp_path: Path) -> None:
    """The page and the document name it; requests come with it or, where the proxy takes it away, without."""
    async with served(server.url, tmp_path / "memory.db", "--base-path", "/memory") as process:
        for prefix in ("", "/memory"):
            assert (await process.http.get(f"{prefix}/readyz")).status_code == httpx.codes.OK
            assert (await process.http.get(f"{prefix}{API}/counts")).json() == {"turns": 0, "facts": 0}
            assert "<html" in (await process.http.get(f"{prefix}/")).text
            document = (await process.http.get(f"{prefix}/docs/openapi.json")).json()
            assert document["servers"] == [{"url": "/memory"}]
        assert (await process.http.get("/memories")).status_code == NOTHING


@pytest.mark.parametrize(
    ("options", "places", "answers"),
    [
        (["--no-page"], {"REST", "Ollama with memory"}, {"/": 404, f"{API}/counts": 200, "/mcp": 404}),
        (["--no-proxy"], {"REST"}, {"/": 200, f"{API}/counts": 200}),
        (["--no-rest", "--mcp", "--no-proxy"], {"MCP"}, {"/": 404, f"{API}/counts": 404, "/healthz": 404, "/mcp": 405}),
        (["--no-rest"], {"Ollama with memory"}, {}),
    ],
)
async def test_parts_that_are_left_out(
    server: ScriptedOllama, tmp_path: Path, options: list[str], places: set[str], answers: dict[str, int]
) -> None:
    """What is off is not there, and what is on works without it."""
    async with served(server.url, tmp_path / "memory.db", *options) as process:
        assert set(process.urls) == places
        base = next(iter(process.urls.values())).removesuffix("/mcp")
        for path, status in answers.items():
            assert (await process.http.get(base + path)).status_code == status, path
        if "Ollama with memory" in places:
            assert (await process.http.get(f"{process.proxy}/api/version")).status_code == httpx.codes.OK
        assert await process.end(limit_s=20) == 0


async def test_the_largest_body_is_that_of_the_option(server: ScriptedOllama, tmp_path: Path) -> None:
    """For all routes, so that what was exported can be imported."""
    async with served(server.url, tmp_path / "memory.db", "--body-bytes", "30000000") as process:
        for size, status in ((20_000_000, 400), (31_000_000, 413)):
            assert (await process.http.post(f"{API}/search", json={"query": "x" * size})).status_code == status
            lines = b" " * size
            answer = await process.http.post(f"{API}/import", content=lines, headers=LINES)
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize(("trusted", "address"), [("127.0.0.1", "203.0.113.9"), ("192.0.2.1", "127.0.0.1")])
async def test_only_a_trusted_proxy_says_who_asks(
    server: ScriptedOllama, tmp_path: Path, trusted: str, address: str
) -> None:
    """The audit has the address that it says, else that of the connection."""
    keys, log = tmp_path / "keys.json", tmp_path / "audit.jsonl"
    _, key = await off_loop(KeyFile(keys).create, "web")
    options = ["--trusted-proxy", trusted, "--keys", str(keys), "--audit-log", str(log)]
    async with served(server.url, tmp_path / "memory.db", *options) as process:
        process.http.headers.update({"x-api-key": key, "x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"})
        assert (await process.add("green tea")).status_code == httpx.codes.CREATED
        assert await process.end() == 0
    (line,) = (await anyio.Path(log).read_text()).splitlines()
    assert json.loads(line)["address"] == address


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "port must be from 0 to 65535"),
        (["--port", "many"], "--port"),
        (["--no-rest", "--no-mcp", "--no-proxy"], "at least one of rest, mcp and proxy"),
        (["--host", "0.0.0.0"], "keys create"),
        (["--trusted-proxy", "127.0.0.1"], "keys create"),
        (["--trusted-proxy", "nginx"], "an address or a network such as 10.0.0.0/8"),
        (["--allow-origin", "notes.example.org"], "https://notes.example.org"),
        (["--tls-cert", "/no/such.pem"], "--tls-cert /no/such.pem: [Errno 2] No such file"),
        (["--audit-log", "/no/such/folder/log"], "--audit-log /no/such/folder/log: No such file"),
        (["--deadline-s", "0"], "deadline_s must be greater than 0"),
        (["--no-such-part"], "--no-such-part"),
    ],
)
async def test_wrong_options_are_told(tmp_path: Path, options: list[str], said: str) -> None:
    """In one line, before anything is served."""
    told = await refused(tmp_path, *options)
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("option", ["--port", "--proxy-port"])
async def test_a_port_that_is_taken(tmp_path: Path, option: str) -> None:
    """The error names it, and the options that choose another."""
    ports = {"--port": "0", "--proxy-port": "0"}
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports[option] = str(other.getsockname()[1])
        told = await refused(tmp_path, *(word for pair in ports.items() for word in pair))
    assert f"port {ports[option]}: Address already in use" in told
    assert option in told


async def refused(folder: Path, *options: str) -> str:
    """What the command says that does not start."""
    line = [sys.executable, "-m", "ollama_async_mem", "serve", "--store", str(folder / "memory.db")]
    with anyio.fail_after(20):
        done = await anyio.run_process([*line, "--ollama", "http://127.0.0.1:9", *options], check=False)
    assert (done.returncode, done.stdout) == (USAGE, b"")
    return done.stderr.decode()
