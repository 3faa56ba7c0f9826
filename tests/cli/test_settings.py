"""The commands on settings."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
import yaml
from fakes import ScriptedOllama

from ollama_async_mem.cli.main import USAGE, run
from ollama_async_mem.config import EmbedderConfig, MemoryConfig, OllamaConfig, ServerConfig, load_config, load_settings
from ollama_async_mem.memory.weights import RankingWeights
from ollama_async_mem.server.settings import ServerSettings

from .calls import ran, said

if TYPE_CHECKING:
    from pathlib import Path

    from pytest import CaptureFixture, MonkeyPatch  # noqa: PT013


def test_where_each_setting_comes_from(capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Default, file, variable or argument; secrets are hidden."""
    path = tmp_path / "settings.json"
    secret = {"temperature": 0.7, "api_key": "s3cret", "headers": {"X-Token": "s3cret"}}
    works = {"idle_s": 2.0, "weights": {"recency": 0.5}}
    path.write_text(
        json.dumps({"llm": {"config": secret}, "store": "postgresql://ann:s3cret@host/db", "memory": works})
    )
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONCURRENCY", "8")
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(path))
    monkeypatch.delenv("OLLAMA_ASYNC_MEM_STORE")
    monkeypatch.setenv("OLLAMA_HOST", "http://ann:s3cret@example.org:1234")
    shown = ran(capsys, "config", "show", "--embedder", "all-minilm")
    assert shown["file"] == str(path)
    settings = shown["settings"]
    assert settings["llm.temperature"] == {"value": 0.7, "from": str(path)}
    assert settings["llm.model"] == {"value": "llama3.2", "from": "default"}
    assert settings["llm.ollama_base_url"] == {"value": "http://***@example.org:1234", "from": "OLLAMA_HOST"}
    assert settings["embedder.model"] == {"value": "all-minilm", "from": "argument"}
    assert settings["llm.num_ctx"] == {"value": None, "from": "default"}
    assert settings["memory.prompt"] == {"value": None, "from": "default"}
    assert settings["memory.idle_s"] == {"value": 2.0, "from": str(path)}
    assert settings["memory.concurrency"] == {"value": 8, "from": "OLLAMA_ASYNC_MEM_CONCURRENCY"}
    assert settings["memory.weights.recency"] == {"value": 0.5, "from": str(path)}
    assert settings["memory.weights.words"] == {"value": RankingWeights().words, "from": "default"}
    out, _ = said(capsys, "config", "show")
    assert re.search(r"^llm.temperature +0.7  \(.*settings.json\)$", out, re.MULTILINE)
    assert "s3cret" not in out + json.dumps(shown)


def test_two_servers(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """Where the embedder has a server of its own, commands ask that one for vectors."""
    monkeypatch.delenv("OLLAMA_HOST")  # it would win over the file
    with ScriptedOllama() as other:
        path = tmp_path / "settings.json"
        servers = {"llm": {"config": {"base_url": ollama.url}}, "embedder": {"config": {"base_url": other.url}}}
        path.write_text(json.dumps(servers))
        monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(path))
        ollama.settings.models.remove("nomic-embed-text:latest")
        ran(capsys, "add", "I like tea", "--facts")
        ran(capsys, "add", "I like cake")  # now the store knows its embedder
        assert ran(capsys, "search", "tea")["degraded"] == []
        assert ran(capsys, "doctor")["well"]
    assert ollama.requests_to("POST /api/chat")
    assert not [request for request in ollama.requests if "embed" in request.path]


def test_check(capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """What is wrong is named, with the exit code of wrong settings."""
    assert ran(capsys, "config", "check") == {"file": None, "right": True}
    path = tmp_path / "settings.json"
    for wrong in ('{"lllm": 1}', '{"store": "oracle://x"}', '{"host": "ftp://x"}', "{"):
        path.write_text(wrong)
        assert run(["config", "check", str(path)]) == USAGE
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(path))
    assert run(["config", "check"]) == USAGE
    path.write_text('{"llm": "llama3.2"}')
    assert f"the settings of {path} are right" in said(capsys, "config", "check", str(path))[0]


def test_a_first_file(capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """It is right as it is, is the same as no file, and is never overwritten unasked."""
    path = tmp_path / "settings.yaml"
    before = load_settings()
    _, err = said(capsys, "config", "init", str(path))
    assert f"OLLAMA_ASYNC_MEM_CONFIG={path}" in err
    assert run(["config", "check", str(path)]) == 0
    loaded = load_settings(config=path)
    assert msgspec.structs.replace(loaded, origins={}) == msgspec.structs.replace(before, origins={})
    path.write_text("llm: mine")
    assert run(["config", "init", str(path)]) == USAGE
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == "llm: mine"
    assert ran(capsys, "config", "init", str(path), "--force") == {"file": str(path)}
    assert "provider: ollama" in path.read_text()
    assert run(["config", "init", str(tmp_path / "no" / "folder.yaml")]) == USAGE


def test_the_first_file_has_every_setting() -> None:
    """With all comments taken away it is still right, and names each setting there is, how a memory works as it is."""
    text = files("ollama_async_mem.cli").joinpath("settings.yaml").read_text()
    settings = yaml.safe_load(re.sub(r"^( *)# (?=[a-z_]+:)", r"\1", text, flags=re.MULTILINE))
    load_config(settings)
    assert set(settings) == {"store", "host", "llm", "embedder", "memory", "server"}
    assert set(settings["llm"]["config"]) == set(OllamaConfig.__struct_fields__)
    assert set(settings["embedder"]["config"]) == set(EmbedderConfig.__struct_fields__)
    served = settings["server"]
    assert set(served) == set(ServerConfig.__struct_fields__)
    named = {name: served.pop(name) for name in ("tls_cert", "tls_key", "keys", "audit_log")}
    assert all(named.values())
    assert ServerSettings(**load_settings({}, config={"server": served}).server.given) == ServerSettings()
    works = settings["memory"]
    assert set(works) == set(MemoryConfig.__struct_fields__)
    assert works.pop("weights") == msgspec.structs.asdict(RankingWeights())
    assert load_settings({}, config={"memory": works | {"prompt": None}}).memory == MemoryConfig()


def test_the_server_is_told_by_options_variables_and_the_file(
    capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """In that order, and `config show` says which; `config check` sees what does not fit together."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"server": {"port": 1, "proxy_port": 2, "allow_host": ["a"], "keys": "k.json"}}))
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(path))
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_SERVER_PROXY_PORT", "3")
    settings = ran(capsys, "config", "show")["settings"]
    assert settings["server.port"] == {"value": 1, "from": str(path)}
    assert settings["server.proxy_port"] == {"value": 3, "from": "OLLAMA_ASYNC_MEM_SERVER_PROXY_PORT"}
    assert settings["server.allow_host"] == {"value": ["a"], "from": str(path)}
    assert settings["server.head_s"] == {"value": 10.0, "from": "default"}
    assert settings["server.keys"] == {"value": "k.json", "from": str(path)}
    out, _ = said(capsys, "config", "show")
    assert re.search(r"^server.rest +true  \(default\)$", out, re.MULTILINE)
    assert re.search(r"^server.allow_origin +not set  \(default\)$", out, re.MULTILINE)
    assert ran(capsys, "config", "check")["right"]
    path.write_text('{"server": {"tls_key": "key.pem"}}')
    assert "tls_cert" in said(capsys, "config", "check", code=USAGE)[1]
    path.write_text('{"server": {"port": 70000}}')
    assert "server.port cannot be 70000" in said(capsys, "config", "check", code=USAGE)[1]


def test_options_of_serve_win(monkeypatch: MonkeyPatch, tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    """Over variables, which win over the file; with no part left it says so before anything is opened."""
    path = tmp_path / "settings.json"
    path.write_text('{"server": {"rest": false, "mcp": true, "proxy": true}}')
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(path))
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_SERVER_MCP", "false")
    assert "at least one of rest" in said(capsys, "serve", "--no-proxy", code=USAGE)[1]
    assert not (tmp_path / "memory.db").exists()


def test_the_help_of_serve_says_the_defaults(capsys: CaptureFixture[str], monkeypatch: MonkeyPatch) -> None:
    """Those that the settings of the server have."""
    monkeypatch.setenv("COLUMNS", "400")
    out = said(capsys, "serve", "--help")[0]
    for name, value in msgspec.structs.asdict(ServerSettings()).items():
        flag = f"--{name.replace('_', '-')}"
        if value not in ("", (), None) and f" {flag} " in out:
            (line,) = (line for line in out.splitlines() if f" {flag} " in line)
            default = f"{value:g}" if isinstance(value, float) else str(value).lower()
            assert f"Default: {default}." in line, line


def test_keys_lie_where_the_settings_say(capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """The commands on keys and `serve` mean the same file."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"server": {"keys": str(tmp_path / "mine.json")}}))
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(path))
    ran(capsys, "keys", "create", "phone")
    assert (tmp_path / "mine.json").exists()
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_KEYS", str(tmp_path / "other.json"))
    assert ran(capsys, "keys", "list")["keys"] == []
