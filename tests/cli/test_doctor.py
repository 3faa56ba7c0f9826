"""`doctor` and the commands on models, on a scripted Ollama."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from fakes import Reply, ScriptedOllama, refusing_port

from ollama_async_mem.cli.main import FAILED, run
from ollama_async_mem.cli.room import context_bytes, free_bytes, need_of, room_findings
from ollama_async_mem.config import load_settings
from ollama_async_mem.ollama.schema import ModelDetails, ModelInfo, ShowResponse

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


@pytest.fixture
def free(monkeypatch: MonkeyPatch) -> list[int | None]:
    """How much memory the machine has free, as long as a test lasts."""
    bytes_: list[int | None] = [64_000_000_000]
    monkeypatch.setattr("ollama_async_mem.cli.doctor.free_bytes", lambda: bytes_[0])
    return bytes_


def test_all_is_well(ollama: ScriptedOllama, capsys: CaptureFixture[str], free: list[int | None]) -> None:
    """Each thing is said to be well, before and after the store is there."""
    found = examined(capsys)
    assert {what: status for what, (status, _) in found.items()} == dict.fromkeys(
        ("store", "server", "embedder", "chat model", "memory"), "ok"
    )
    assert "not there yet" in found["store"][1]
    assert "0.32.15" in found["server"][1]
    ran(capsys, "add", "hello")
    ollama.enqueue("GET /api/ps", Reply(json={"models": [loaded("llama3.2:latest")]}), repeat=True)
    out, _ = said(capsys, "doctor")
    assert out.count("ok  ") == len(out.splitlines()) == 8
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


LLAMA = {
    "general.architecture": "llama",
    "llama.context_length": 131_072,
    "llama.embedding_length": 256,
    "llama.block_count": 28,
    "llama.attention.head_count": 24,
    "llama.attention.head_count_kv": 8,
    "llama.attention.key_length": 128,
    "llama.attention.value_length": 128,
}


def memory_findings(capsys: CaptureFixture[str], *arguments: str) -> list[tuple[str, str]]:
    """Status, and message with advice, of what is said of memory."""
    found = [f for f in ran(capsys, "doctor", *arguments)["findings"] if f["what"] == "memory"]
    return [(f["status"], f"{f['message']} {f['advice']}") for f in found]


def test_models_that_do_not_fit(ollama: ScriptedOllama, capsys: CaptureFixture[str], free: list[int | None]) -> None:
    """Files and contexts are compared with the memory that is free; what is loaded, elsewhere or unknown is not."""
    details = {"model_info": LLAMA, "details": {"quantization_level": "F16"}}
    ollama.enqueue("POST /api/show", Reply(json=details), repeat=True)
    llm, embedder = memory_findings(capsys)
    assert llm[0] == embedder[0] == "ok"
    assert "takes about 2.5 GB: 2.0 GB in Q4_K_M and 469.8 MB for a context of 4,096 tokens; 64.0 GB are free" in llm[1]
    free[0] = 4_000_000_000
    assert [status for status, _ in memory_findings(capsys)] == ["ok", "ok", "warning"]
    assert "about 5.0 GB together" in memory_findings(capsys)[2][1]
    free[0] = 2_100_000_000
    status, text = memory_findings(capsys)[0]
    assert (status, "use a smaller model" in text, "quantization," in text) == ("warning", True, False)
    ollama.enqueue("GET /api/ps", Reply(json={"models": [loaded("llama3.2:latest")]}), repeat=True)
    assert len(memory_findings(capsys)) == 1
    free[0] = None
    assert "has free cannot be told" in memory_findings(capsys)[0][1]


def test_a_model_whose_shape_is_not_told(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Its file is what is known."""
    assert "takes at least 2.0 GB in Q4_K_M, what its context takes cannot be told" in memory_findings(capsys)[0][1]


def test_what_to_do_about_a_model_that_does_not_fit() -> None:
    """A quantization with more bits than needed, and a context that is most of it, can be smaller."""
    info = ModelInfo(name="m", size=8_000_000_000, details=ModelDetails(quantization_level="F16"))
    (found,) = room_findings([need_of(info, ShowResponse(model_info=LLAMA), 131_072)], 1_000_000_000, "here")
    assert found.advice.endswith(
        "use a smaller model, or a smaller quantization, Q4_K_M takes about 2.4 GB, "
        "or a shorter context, llm.num_ctx in the settings"
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 28 * 8 * 256 * 2),
        ({"attention.head_count_kv": [8, 0] * 14}, 14 * 8 * 256 * 2),
        ({"attention.key_length": None, "attention.value_length": None}, 28 * 8 * 20 * 2),
        ({"attention.head_count_kv": None}, 28 * 24 * 256 * 2),
        ({"block_count": None}, 0),
        ({"attention.head_count": "x", "attention.key_length": None}, 0),
        ({"attention.head_count": None, "attention.head_count_kv": None}, 0),
    ],
)
def test_what_a_token_of_context_takes(changed: dict[str, Any], expected: int) -> None:
    """Two values of 16 bits for each layer and head; nothing is said where the server does not tell."""
    assert context_bytes(LLAMA | {f"llama.{name}": value for name, value in changed.items()}) == expected
    assert context_bytes({}) == 0


def test_free_memory(tmp_path: Path) -> None:
    """As Linux tells it, None elsewhere."""
    path = tmp_path / "meminfo"
    assert free_bytes(str(path)) is None
    path.write_text("MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:       2 kB\n")
    assert free_bytes(str(path)) == 2048
    path.write_text("nothing")
    assert free_bytes(str(path)) is None


@pytest.mark.parametrize("num_ctx", [None, 8192])
def test_contexts_that_cut_prompts(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch, num_ctx: int | None
) -> None:
    """That of the Modelfile, and that with which a server has loaded the model; the settings win over both."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"llm": {"config": {"num_ctx": num_ctx}}}))
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(path))
    details = {"parameters": "num_ctx   2048", "model_info": LLAMA}
    ollama.enqueue("POST /api/show", Reply(json=details), repeat=True)
    running = loaded("llama3.2:latest") | {"context_length": 2048}
    ollama.enqueue("GET /api/ps", Reply(json={"models": [running]}), repeat=True)
    found = examined(capsys)
    assert found["chat model"][0] == ("ok" if num_ctx else "warning")
    assert ("context" in found) is not bool(num_ctx)
    assert num_ctx or "2,048 tokens by its Modelfile" in found["chat model"][1]
    assert num_ctx or "OLLAMA_CONTEXT_LENGTH" in found["context"][1]


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
