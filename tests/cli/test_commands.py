"""The command line in this process, on a scripted Ollama and a real store."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes import Reply, ScriptedOllama, error, refusing_port

from ollama_async_mem.cli.main import FAILED, USAGE, build, run
from ollama_async_mem.engine import serve

from .calls import ran, said

if TYPE_CHECKING:
    from pytest import CaptureFixture, MonkeyPatch  # noqa: PT013


def test_add_search_list_delete(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """The straight way through the commands, as JSON."""
    (turn_id,) = ran(capsys, "add", "I'm allergic to peanuts", "--user", "alice")["turn_ids"]
    (hit,) = ran(capsys, "search", "peanuts", "-u", "alice")["hits"]
    assert (hit["memory"]["id"], hit["score"] > 0.9, hit["memory"]["kind"]) == (turn_id, True, "turn")
    assert ran(capsys, "search", "peanuts", "-u", "bob")["hits"] == []
    assert [m["id"] for m in ran(capsys, "list", "-u", "alice")["items"]] == [turn_id]
    assert ran(capsys, "delete", turn_id) == {"deleted": 1}
    assert ran(capsys, "list", "-u", "alice")["items"] == []


def test_the_same_for_people(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Results go to standard output with score, date and speaker; hints go to standard error."""
    assert run(["add", "I like tea"]) == 0
    assert run(["search", "tea"]) == 0
    assert run(["list"]) == 0
    assert run(["search", "tea", "--user", "nobody"]) == 0
    out, err = capsys.readouterr()
    assert "stored 1 turn in" in out
    assert re.search(r"^0\.9\d  [0-9a-f-]{36}  20", out, re.MULTILINE)
    assert out.count("user: I like tea") == 2
    assert "nothing found" in err


def test_a_file_and_standard_input(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """JSON lines keep their speakers and times; a pipe is plain text."""
    chat = tmp_path / "chat.jsonl"
    chat.write_text('{"role":"user","name":"Ann","content":"hello","timestamp":"2026-05-01"}\n{"content":"bye"}\n')
    assert len(ran(capsys, "add", "--file", str(chat))["turn_ids"]) == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    assert len(ran(capsys, "add", "--user", "pipe")["turn_ids"]) == 2
    items = ran(capsys, "list")["items"]
    assert {(m.get("speaker"), m["text"]) for m in items} == {("Ann", "hello"), (None, "bye")}
    assert "2026-05-01T00:00:00Z" in {m["at"] for m in items}


def test_a_long_file_is_added_whole(ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path) -> None:
    """More messages than one batch holds are all stored, and listed page by page."""
    notes = tmp_path / "notes.txt"
    notes.write_text("\n".join(f"note {i}" for i in range(600)))
    assert len(ran(capsys, "add", "-f", str(notes))["turn_ids"]) == 600
    seen, cursor = set(), None
    while True:
        page = ran(capsys, "list", "-n", "250", *(["--cursor", cursor] if cursor else []))
        seen |= {m["text"] for m in page["items"]}
        if not (cursor := page["cursor"]):
            break
    assert len(seen) == 600


def test_a_bad_line_stores_nothing(ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path) -> None:
    """All or nothing, unless --skip-bad."""
    chat = tmp_path / "chat.jsonl"
    chat.write_text('{"content":"fine"}\nnonsense\n')
    assert run(["add", "-f", str(chat)]) == USAGE
    assert "line 2" in capsys.readouterr().err
    assert ran(capsys, "list")["items"] == []
    assert run(["add", "-f", str(chat), "--skip-bad"]) == 0
    assert "left out" in capsys.readouterr().err
    assert len(ran(capsys, "list")["items"]) == 1


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_blank_text_is_wrong_usage(ollama: ScriptedOllama, capsys: CaptureFixture[str], text: str) -> None:
    """Blank text is refused before any request."""
    assert run(["add", text]) == USAGE
    assert run(["search", text]) == USAGE
    assert ollama.requests == []


def test_text_of_several_lines_is_one_message(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """A text given as argument is one message, whatever it looks like."""
    ran(capsys, "add", '{"not": "parsed"}\nsecond line')
    assert [m["text"] for m in ran(capsys, "list")["items"]] == ['{"not": "parsed"}\nsecond line']


def test_a_settings_file_is_used(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """What the file of OLLAMA_ASYNC_MEM_CONFIG says is used, also its address; --host wins over it."""
    config = {"provider": "ollama", "config": {"model": "talker", "temperature": 0.5}}
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"llm": config, "embedder": "all-minilm", "host": ollama.url}))
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(path))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)  # it would win over the file
    ran(capsys, "add", "I like tea", "--facts")
    assert ollama.requests_to("POST /api/embed")[0].json["model"] == "all-minilm"
    assert ollama.requests_to("POST /api/chat")[0].json["model"] == "talker"
    with ScriptedOllama() as other:
        assert run(["models", "list", "--host", other.url]) == 0
        assert other.requests_to("GET /api/tags")
    path.write_text('{"lllm": 1}')
    assert run(["list"]) == USAGE
    assert "unknown key 'lllm', did you mean 'llm'?" in capsys.readouterr().err


def test_models(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Models are listed and pulled."""
    assert ran(capsys, "models", "pull", "new-model") == {"model": "new-model", "pulled": True}
    assert ran(capsys, "models", "pull", "new-model") == {"model": "new-model", "pulled": False}
    assert "new-model:latest" in [m["name"] for m in ran(capsys, "models", "list")["models"]]
    assert run(["models", "list"]) == 0
    assert "new-model:latest" in capsys.readouterr().out


def test_facts_are_extracted_when_asked_for(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """`add --facts` and `flush` wait for the chat model."""
    fact = {"line": 1, "quote": "I like tea", "text": "The user likes tea."}
    ollama.settings.answer = lambda _: json.dumps({"facts": [fact]})
    assert ran(capsys, "add", "I like tea", "--facts")["pending_jobs"] == 0
    flushed = ran(capsys, "flush")
    assert flushed == {"pending_jobs": 0, "turns": 1, "facts": 1, "failed_jobs": 0, "reasons": []}


def test_chat_from_a_pipe(ollama: ScriptedOllama, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch) -> None:
    """Each line of a pipe is a question; the answers stream and are remembered."""
    reading, writing = os.pipe()
    os.write(writing, b"hello there\n\n/why\n/exit\nnever\n")
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run(["chat", "-u", "ann"]) == 0
    out, err = capsys.readouterr()
    assert out == "You said: hello there\n"
    assert "nothing was recalled" in err
    assert len(ran(capsys, "list", "-u", "ann")["items"]) == 2


def test_without_a_server_both_ways_out_are_named(capsys: CaptureFixture[str], monkeypatch: MonkeyPatch) -> None:
    """One clear error, exit code 2, no traceback; what needs no server works."""
    with refusing_port() as port:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
        monkeypatch.setattr(serve, "is_installed", lambda: False)
        assert run(["add", "hello"]) == USAGE
        error = capsys.readouterr().err
        assert "ollama serve" in error
        assert 'pip install "ollama-async-mem[engine]"' in error
        assert "Traceback" not in error
        assert run(["demo"]) == USAGE
        error = capsys.readouterr().err
        assert "ollama serve" in error
        assert 'pip install "ollama-async-mem[engine]"' in error
        assert run(["chat", "--engine"]) == USAGE
        assert "[engine]" in capsys.readouterr().err
        assert run(["list"]) == 0


def test_a_search_without_a_server_finds_by_words(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    """Searching goes on with the keyword index, and says so."""
    ran(capsys, "add", "green tea")
    with refusing_port() as port:
        found = ran(capsys, "search", "tea", "--host", f"127.0.0.1:{port}")
    assert found["degraded"] == ["dense"]
    assert len(found["hits"]) == 1


def test_the_store_knows_its_embedder(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Without --embedder the store's own is used; naming another is an error."""
    ran(capsys, "add", "hello", "--embedder", "mxbai-embed-large")
    assert len(ran(capsys, "search", "hello")["hits"]) == 1
    assert ollama.requests_to("POST /api/embed")[-1].json["model"] == "mxbai-embed-large:latest"
    assert run(["list", "--embedder", "nomic-embed-text"]) == FAILED
    assert "mxbai-embed-large" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["search"],
        ["search", "x", "--limit", "0"],
        ["search", "x", "--limit", "many"],
        ["add", "x", "--file", "y"],
        ["add", "--file", "nowhere.jsonl"],
        ["add", "x", "--nope"],
        ["list", "--cursor", "nonsense"],
        ["list", "--host", "ftp://x"],
    ],
)
def test_wrong_usage(ollama: ScriptedOllama, capsys: CaptureFixture[str], arguments: list[str]) -> None:
    """Every wrong argument is said in words, with exit code 2."""
    assert run(arguments) == USAGE
    out, err = capsys.readouterr()
    assert err + out
    assert "Traceback" not in err


def test_errors_as_json(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """With --json a failure is an object too."""
    assert run(["delete", "nothing", "--json"]) == FAILED
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "RecordNotFound"


def commands() -> list[tuple[str, ...]]:
    """All commands, and the groups of them."""
    app = build()
    names = [name for name in app if not name.startswith("-")]
    return [(), *((name,) for name in names), *((name, sub) for name in names for sub in app[name] if sub[0] != "-")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help(capsys: CaptureFixture[str], command: tuple[str, ...]) -> None:
    """Every command explains itself."""
    assert run([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert " ".join(["Usage: ollama-async-mem", *command]) in out
    assert not command or len(out.split("\n\n")[1]) > 10  # what it does


def test_the_manual_has_every_command() -> None:
    """Also those of the groups."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [command for command in commands() if " ".join(["ollama-async-mem", *command]) not in readme] == []


def test_what_was_added_is_extracted_by_flush(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """`add` queues, `flush` works off, at once."""
    fact = {"line": 1, "quote": "I like tea", "text": "The user likes tea."}
    ollama.settings.answer = lambda _: json.dumps({"facts": [fact]})
    assert ran(capsys, "add", "I like tea")["pending_jobs"] == 1
    assert ran(capsys, "search", "tea")["hits"]
    flushed = ran(capsys, "flush")
    assert flushed == {"pending_jobs": 0, "turns": 1, "facts": 1, "failed_jobs": 0, "reasons": []}


def test_flush_says_why_jobs_wait(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """A model that is not there is named."""
    ollama.settings.only_listed = True
    ollama.settings.models.remove("llama3.2:latest")
    assert run(["add", "I like tea"]) == 0
    assert run(["flush"]) == 0
    out, err = capsys.readouterr()
    assert "1 job waiting" in out
    assert "model 'llama3.2' not found" in err


def test_control_characters_do_not_reach_the_terminal(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Stored text is shown without what would steer the terminal."""
    assert run(["add", "red \x1b[31m and \x9b title \x07 end"]) == 0
    assert run(["list"]) == 0
    assert run(["search", "title"]) == 0
    out = capsys.readouterr().out
    assert "title" in out
    assert not set(out) & {"\x1b", "\x9b", "\x07"}


def test_a_store_that_is_named_must_exist_to_be_read(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path
) -> None:
    """A mistyped path is an error, and nothing is created."""
    path = tmp_path / "typo" / "here.db"
    assert run(["list", "--store", str(path)]) == FAILED
    assert str(path) in capsys.readouterr().err
    assert not path.parent.exists()
    assert run(["list", "--store", "~nobody-of-this-name/x.db"]) == USAGE


def test_a_server_without_the_stores_embedder_is_told_apart(
    ollama: ScriptedOllama, capsys: CaptureFixture[str]
) -> None:
    """The error names the store, its embedder, the server and the way out."""
    ran(capsys, "add", "hello")
    ollama.settings.models.remove("nomic-embed-text:latest")
    assert run(["add", "again"]) == USAGE
    error = capsys.readouterr().err
    assert "memory.db holds embeddings of nomic-embed-text:latest" in error
    assert "models pull nomic-embed-text:latest" in error


def test_an_engine_is_recognised(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Where the server is an embedded engine, its models are the defaults."""
    ollama.settings.version = "0.32.15+ollama-async-mem"
    ran(capsys, "add", "hello")
    assert ollama.requests_to("POST /api/embed")[-1].json["model"].startswith("wordllama")


def test_a_stopped_add_says_how_far_it_came(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path
) -> None:
    """When a long file fails in the middle, the number of stored messages is said."""
    notes = tmp_path / "notes.txt"
    notes.write_text("\n".join(f"note {i}" for i in range(300)))

    def embed(request: Any) -> Any:
        late = len(ollama.requests_to("POST /api/embed")) > 4
        return error(400, "broken") if late else Reply(json={"embeddings": [[1.0, 0.0]] * len(request.json["input"])})

    ollama.enqueue("POST /v1/embeddings", Reply(404, body="404 page not found"), repeat=True)
    ollama.enqueue("POST /api/embed", embed, repeat=True)
    assert run(["add", "-f", str(notes)]) == FAILED
    assert "the first 256 of 300 messages are stored" in capsys.readouterr().err


def test_usage_errors_are_json_too(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """With --json even a wrong option prints an object."""
    assert run(["search", "x", "--bogus", "--json"]) == USAGE
    assert "bogus" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_job_that_was_given_up_is_told(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """When the model's answers cannot be used, people and programs learn of it, also later."""
    added = ran(capsys, "add", "I like tea", "--facts")
    assert (added["pending_jobs"], added["failed_jobs"]) == (0, 1)
    assert "does not fit" in added["reasons"][0]
    assert run(["flush"]) == 0
    assert "1 job given up" in capsys.readouterr().err


def test_a_model_that_finds_nothing_is_told(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """No facts is a result that is explained."""
    ollama.settings.answer = lambda _: '{"facts": []}'
    assert run(["add", "I like tea"]) == 0
    assert run(["flush"]) == 0
    assert "llama3.2 gave no fact" in capsys.readouterr().err


def test_errors_that_are_no_text_are_json_too(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> None:
    """Arguments that are not UTF-8 do not break the report of what is wrong with them."""
    assert run(["models", "list", "--host", "http://\udcff", "--json"]) in {FAILED, USAGE}
    assert "message" in json.loads(capsys.readouterr().out)["error"]


def test_help_is_for_newcomers(capsys: CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command has its place in a group, fits 80 columns, and shows no default that says nothing."""
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = said(capsys, "--help")
    assert "\u256d\u2500 Commands" not in out  # where those without a group stand
    assert "\u256d\u2500 Memories" in out
    for name in (name for name in build() if not name.startswith("-")):
        shown, _ = said(capsys, name, "--help")
        assert max(map(len, shown.splitlines())) <= 80
        assert "[default: False]" not in shown
        assert "None]" not in shown
    assert "--store" not in said(capsys, "models", "show", "--help")[0]  # it has no part in it
    assert "everyone" not in said(capsys, "import", "--help")[0]
