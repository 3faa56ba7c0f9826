"""The commands that look at memories and change them, on a scripted Ollama and a real store."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest
from fakes import ScriptedOllama, refusing_port

from ollama_async_mem.cli.main import FAILED, USAGE, run

from .calls import ran, said
from .test_terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from pytest import CaptureFixture, MonkeyPatch  # noqa: PT013


@pytest.fixture
def tea(ollama: ScriptedOllama, capsys: CaptureFixture[str]) -> str:
    """The id of a memory of Alice."""
    (turn_id,) = ran(capsys, "add", "I like green tea", "-u", "alice")["turn_ids"]
    return str(turn_id)


def test_context(tea: str, capsys: CaptureFixture[str]) -> None:
    """What fits is written as dated lines, within the tokens that are asked for."""
    out, _ = said(capsys, "context", "which tea?", "-u", "alice")
    assert "user: I like green tea" in out
    assert ran(capsys, "context", "which tea?", "-u", "alice")["context"] in out
    assert ran(capsys, "context", "which tea?", "-u", "alice", "--tokens", "1") == {"context": ""}
    assert "nothing found" in said(capsys, "context", "which tea?")[1]
    assert run(["context", "tea", "--tokens", "0"]) == USAGE


def test_a_change_and_its_history(tea: str, capsys: CaptureFixture[str]) -> None:
    """A new text is found, the old one is in the history, with who changed it and why."""
    changed = ran(
        capsys,
        "update",
        tea,
        "I like black tea",
        "--metadata",
        '{"topic": "drinks"}',
        "--actor",
        "bob",
        "--cause",
        "typo",
    )
    assert (changed["text"], changed["metadata"]) == ("I like black tea", {"topic": "drinks"})
    assert ran(capsys, "get", tea) == changed
    added, updated = ran(capsys, "history", tea)["events"]
    assert (added["kind"], added["new"]) == ("added", "I like green tea")
    assert (updated["old"], updated["new"], updated["actor"], updated["cause"]) == (
        "I like green tea",
        "I like black tea",
        "bob",
        "typo",
    )
    out, _ = said(capsys, "history", tea)
    assert 'updated by bob  "I like green tea" -> "I like black tea"  (typo)' in out
    out, _ = said(capsys, "get", tea)
    assert {"user_id", "text", "metadata"} <= {line.split("  ")[0] for line in out.splitlines()}


def test_only_a_new_text_needs_a_server(tea: str, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch) -> None:
    """Metadata and expiry change without one; "never" takes the expiry back."""
    with refusing_port() as port:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
        assert ran(capsys, "update", tea, "--expires", "2099-01-01")["expires_at"] == "2099-01-01T00:00:00Z"
        assert ran(capsys, "update", tea, "--expires", "never")["expires_at"] is None
        assert run(["update", tea, "new"]) == USAGE
        assert run(["update", tea]) == USAGE
        assert run(["update", tea, "--metadata", "[1]"]) == USAGE
        assert "--metadata is a JSON object" in capsys.readouterr().err
        assert run(["update", "nothing", "--expires", "never"]) == FAILED


def test_filters_times_and_kinds(tea: str, capsys: CaptureFixture[str]) -> None:
    """`search` and `list` take conditions, a time, and the kinds."""
    ran(capsys, "update", tea, "--metadata", '{"topic": "drinks"}')
    for command in (["search", "tea"], ["list"]):
        asked = [*command, "-u", "alice"]
        key = "items" if command == ["list"] else "hits"
        assert len(ran(capsys, *asked, "--filter", '{"topic": "drinks"}')[key]) == 1
        assert ran(capsys, *asked, "--filter", '{"topic": "food"}')[key] == []
        assert ran(capsys, *asked, "--as-of", "2001-01-01")[key] == []
        assert ran(capsys, *asked, "--kinds", "fact")[key] == []
        assert len(ran(capsys, *asked, "--kinds", "fact", "turn")[key]) == 1
        for wrong in (["--filter", "topic"], ["--filter", "[]"], ["--as-of", "soon"], ["--kinds", "all"]):
            assert run([*asked, *wrong]) == USAGE
    assert "--filter is a JSON object" in capsys.readouterr().err


def test_scores_are_explained_and_limited(tea: str, capsys: CaptureFixture[str]) -> None:
    """`--explain` shows the parts of a score, `--min-score` leaves out what is below."""
    assert ran(capsys, "search", "tea", "-u", "alice", "--explain")["hits"][0]["parts"]
    out, _ = said(capsys, "search", "tea", "-u", "alice", "--explain")
    assert tea in out
    assert len(out.splitlines()) == 2
    assert ran(capsys, "search", "horses", "-u", "alice", "--min-score", "1")["hits"] == []


def test_all_of_a_long_list(ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path) -> None:
    """`--all` turns the pages, in the order that is asked for."""
    notes = tmp_path / "notes.txt"
    notes.write_text("\n".join(f"note {i}" for i in range(1_100)))
    ran(capsys, "add", "-f", str(notes))
    listed = ran(capsys, "list", "--all", "--sort", "created_at")
    assert listed["cursor"] is None
    assert len({item["id"] for item in listed["items"]}) == 1_100
    newest = ran(capsys, "list", "-n", "1", "--sort", "-created_at")["items"]
    assert newest == listed["items"][-1:]
    _, err = said(capsys, "list")
    assert "--all" in err


def test_whose_memories_there_are(tea: str, capsys: CaptureFixture[str]) -> None:
    """Scopes and statistics of everyone, without a server."""
    ran(capsys, "add", "hello", "--run", "trip")
    listed = ran(capsys, "scopes")["scopes"]
    assert {(one["scope"]["user_id"], one["scope"]["run_id"], one["turns"]) for one in listed} == {
        ("alice", None, 1),
        (None, "trip", 1),
    }
    out, _ = said(capsys, "scopes", "-u", "alice")
    assert "user alice: 1 turn, 0 facts" in out
    assert "trip" not in out
    counted = ran(capsys, "stats")
    assert (counted["turns"], counted["scopes"], counted["jobs_queued"]) == (2, 2, 2)
    assert "nomic-embed-text:latest, 256 dimensions" in said(capsys, "stats")[0]


def test_delete_many_or_none(tea: str, capsys: CaptureFixture[str]) -> None:
    """When one of the ids is wrong, nothing is deleted."""
    (other,) = ran(capsys, "add", "I like cake", "-u", "alice")["turn_ids"]
    assert run(["delete", tea, "nothing"]) == FAILED
    assert "'nothing'" in capsys.readouterr().err
    assert len(ran(capsys, "list", "-u", "alice")["items"]) == 2
    assert ran(capsys, "delete", tea, other) == {"deleted": 2}


def test_delete_all_of_someone(tea: str, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch) -> None:
    """Only with a name, and from a program only with --yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    for wrong in (["--all"], [], [tea, "--all", "-u", "alice"], [tea, "-u", "alice"], ["--all", "-u", "alice"]):
        assert run(["delete", *wrong]) == USAGE
    assert "--yes" in capsys.readouterr().err
    assert ran(capsys, "delete", "--all", "-u", "bob", "--yes") == {"deleted": 0}
    assert ran(capsys, "delete", "--all", "-u", "alice", "--yes") == {"deleted": 1}
    assert ran(capsys, "list", "-u", "alice")["items"] == []


def test_delete_asks_in_a_terminal(tea: str, capsys: CaptureFixture[str]) -> None:
    """What is to be deleted is shown; only a yes deletes it."""
    for answer, deleted in (("n", False), ("y", True)):
        terminal = Terminal("delete", tea, environment={})
        terminal.expect("I like green tea")
        terminal.expect("delete 1 memory for good? [y/N]")
        terminal.type(f"{answer}\n")
        terminal.expect("deleted 1 memory" if deleted else "nothing was deleted")
        assert terminal.exit_status() == (0 if deleted else FAILED)
        assert (run(["get", tea]) == FAILED) is deleted


def test_export_and_import(tea: str, capsys: CaptureFixture[str], tmp_path: Path) -> None:
    """A file holds what is asked for and can be imported elsewhere, twice without harm."""
    ran(capsys, "add", "hello", "-u", "bob")
    file, other = str(tmp_path / "all.jsonl"), str(tmp_path / "other.db")
    assert ran(capsys, "export", file, "-u", "alice") == {"file": file, "memories": 1}
    assert ran(capsys, "export", file)["memories"] == 2
    assert ran(capsys, "import", file, "--store", other)["new"] == 2
    again = ran(capsys, "import", file, "--store", other)
    assert (again["format"], again["turns"], again["new"], again["differing"]) == ("own", 2, 0, 0)
    assert ran(capsys, "list", "-u", "alice", "--store", other) == ran(capsys, "list", "-u", "alice")
    assert run(["import", file, "-u", "carol"]) == USAGE
    assert "imported 2 turns and 0 facts" in said(capsys, "import", file)[0]


def test_export_to_standard_output(tea: str, capsys: CaptureFixture[str]) -> None:
    """With "-" the lines go into a pipe."""
    out, _ = said(capsys, "export", "-", "-u", "alice")
    header, memory, *_, end = map(json.loads, out.splitlines())
    assert (header["format"], memory["memory"]["id"], end["line"]) == ("ollama-async-mem", tea, "end")
