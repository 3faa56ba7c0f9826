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
from ollama_async_mem.config import EmbedderConfig, MemoryConfig, OllamaConfig, load_config, load_settings
from ollama_async_mem.memory.weights import RankingWeights

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
    assert set(settings) == {"store", "host", "llm", "embedder", "memory"}
    assert set(settings["llm"]["config"]) == set(OllamaConfig.__struct_fields__)
    assert set(settings["embedder"]["config"]) == set(EmbedderConfig.__struct_fields__)
    works = settings["memory"]
    assert set(works) == set(MemoryConfig.__struct_fields__)
    assert works.pop("weights") == msgspec.structs.asdict(RankingWeights())
    assert load_settings({}, config={"memory": works | {"prompt": None}}).memory == MemoryConfig()
