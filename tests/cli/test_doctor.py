"""`doctor` and the commands on models, on a scripted Ollama."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from fakes import Reply, ScriptedOllama, refusing_port

from ollama_async_mem.cli.main import FAILED, run
from ollama_async_mem.config import load_settings

from .calls import ran, said
from .test_terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from pytest import CaptureFixture, MonkeyPatch  # noqa: PT013


def loaded(model: str, *, gpu: float = 1.0) -> dict[str, Any]:
    """A model as /api/ps lists it."""
    expires = "2026-05-01T18:30:00Z"
    return {"name": model, "size": 4_000, "size_vram": int(4_000 * gpu), "context_length": 4096, "expires_at": expires}


def examined(capsys: CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, tuple[str, str]]:
    """Status, and message with advice, by what was examined."""
    found = ran(capsys, "doctor", *arguments, code=code)
    assert found["well"] is (code == 0)
    return {f["what"]: (f["status"], f"{f['message']} {f['advice']}") for f in found["findings"]}


def test_all_is_well(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Each thing is said to be well, before and after the store is there."""
    found = examined(capsys)
    assert {what: status for what, (status, _) in found.items()} == dict.fromkeys(
        ("store", "server", "embedder", "chat model"), "ok"
    )
    assert "not there yet" in found["store"][1]
    assert "0.32.15" in found["server"][1]
    ran(capsys, "add", "hello")
    ollama.enqueue("GET /api/ps", Reply(json={"models": [loaded("llama3.2:latest")]}), repeat=True)
    out, _ = said(capsys, "doctor")
    assert out.count("ok  ") == len(out.splitlines()) == 7
    assert "100% of llama3.2" in out


def test_no_server(capsys: CaptureFixture[str], monkeypatch: MonkeyPatch) -> None:
    """The store is looked at also when nobody answers."""
    with refusing_port() as port:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
        found = examined(capsys, code=FAILED)
    assert found["server"][0] == "error"
    assert "ollama serve" in found["server"][1]
    assert found["store"][0] == "ok"


def test_missing_models(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """What is missing is an error, with the command that gets it."""
    ollama.settings.models.clear()
    found = examined(capsys, code=FAILED)
    assert found["chat model"] == (
        "error",
        f"{ollama.url} does not have llama3.2 get it: ollama-async-mem models pull llama3.2",
    )
    assert "models pull nomic-embed-text" in found["embedder"][1]


def test_vectors_that_do_not_fit_the_store(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Another length, or another model that was asked for."""
    ran(capsys, "add", "hello")
    ollama.settings.dimension = 128
    status, text = examined(capsys, code=FAILED)["embedder"]
    assert (status, "128 dimensions" in text, "with 256" in text) == ("error", True, True)
    ollama.settings.models.append("all-minilm:latest")
    assert examined(capsys, "--embedder", "all-minilm", code=FAILED)["embedder"][0] == "error"


def test_contexts_and_versions_that_are_too_small(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """They are warnings: the exit code stays 0."""
    ollama.settings.version = "0.5.13"
    details = {"model_info": {"general.architecture": "x", "x.context_length": 2048, "x.embedding_length": 256}}
    ollama.enqueue("POST /api/show", Reply(json=details), repeat=True)
    ollama.enqueue("GET /api/ps", Reply(json={"models": [loaded("llama3.2:latest", gpu=0.25)]}), repeat=True)
    found = examined(capsys)
    assert [found[what][0] for what in ("server", "chat model", "GPU")] == ["warning"] * 3
    assert "2,048" in found["chat model"][1]
    assert "25% of llama3.2" in found["GPU"][1]


def test_a_damaged_store(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """What does not fit is an error, and so is a file that is none."""
    ran(capsys, "add", "hello")
    path = load_settings().store
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM vectors")
    assert examined(capsys, code=FAILED)["integrity"][0] == "error"


def test_a_store_and_settings_that_cannot_be(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """They are said in place of the rest."""
    assert examined(capsys, "--store", str(tmp_path), code=FAILED)["store"][0] == "error"
    assert examined(capsys, "--store", "oracle://x", code=FAILED)["store"][0] == "error"
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(tmp_path / "nowhere.yaml"))
    assert list(examined(capsys, code=FAILED)) == ["settings"]


def test_jobs_that_were_given_up(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Extraction that failed is a warning."""
    ran(capsys, "add", "I like tea", "--facts")  # the scripted model does not answer in JSON
    assert examined(capsys)["jobs"][0] == "warning"


def test_a_model_is_shown(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """What it is and what it can do."""
    out, _ = said(capsys, "models", "show", "llama3.2")
    assert "Q4_K_M" in out
    assert "131072" in out
    assert "completion" in ran(capsys, "models", "show", "llama3.2")["capabilities"]
    ollama.settings.only_listed = True
    assert run(["models", "show", "nothing"]) == FAILED


def test_models_are_loaded_and_unloaded(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """With how long they stay."""
    assert ran(capsys, "models", "load", "llama3.2", "--keep-alive", "30m")["state"] == "loaded"
    assert ollama.requests[-1].json["keep_alive"] == "30m"
    assert run(["models", "load", "llama3.2", "--keep-alive", "-1s"]) == 0
    assert ollama.requests[-1].json["keep_alive"] == "-1s"
    assert "llama3.2 is unloaded" in said(capsys, "models", "unload", "llama3.2")[0]
    assert ollama.requests[-1].json["keep_alive"] == 0


@pytest.mark.parametrize("gpu", [0.0, 0.5])
def test_loaded_models_are_listed(ollama: ScriptedOllama, capsys: CaptureFixture[str], gpu: float) -> None:
    """With the share that the GPU holds."""
    assert "no model is loaded" in said(capsys, "models", "ps")[1]
    ollama.enqueue("GET /api/ps", Reply(json={"models": [loaded("llama3.2", gpu=gpu)]}), repeat=True)
    assert ran(capsys, "models", "ps")["models"][0]["gpu_share"] == gpu
    out, _ = said(capsys, "models", "ps")
    assert f"{gpu:4.0%}" in out
    assert "until 2026-05-01 18:30" in out


def test_models_are_deleted(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """In a terminal it asks first, which says how large the model is; a program that names one means it."""
    ollama.settings.models += ["one:latest", "two:latest"]
    for answer, is_there in (("n", True), ("y", False)):
        terminal = Terminal("models", "delete", "one", environment={})
        terminal.expect(f"delete one, 2.0 GB, from {ollama.url}? [y/N]")
        terminal.type(f"{answer}\n")
        terminal.expect("nothing was deleted" if is_there else "one is deleted")
        assert terminal.exit_status() == (FAILED if is_there else 0)
        assert ("one:latest" in ollama.settings.models) is is_there
    assert ran(capsys, "models", "delete", "two", "--yes") == {"model": "two", "state": "deleted"}
    assert "two" in ran(capsys, "models", "delete", "two", code=FAILED)["error"]["message"]
