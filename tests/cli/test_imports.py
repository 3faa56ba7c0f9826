"""Importing what other programs export: recognised by looking, with dates, and never twice."""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.cli.formats import recognised
from ollama_async_mem.cli.main import INTERRUPTED, USAGE, run
from ollama_async_mem.errors import ConfigError

from .calls import ran, said
from .test_terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from fakes import ScriptedOllama
    from pytest import CaptureFixture  # noqa: PT013

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def node(name: str, parent: str | None, role: str, *parts: Any, at: float | None = None, **message: Any) -> Any:
    """A node of a conversation of ChatGPT."""
    content = {"content_type": "text", "parts": list(parts)}
    said = {"id": f"id-{name}", "author": {"role": role}, "content": content, "create_time": at, **message}
    return {"id": name, "message": said, "parent": parent, "children": []}


CHATGPT: list[Any] = [
    {
        "title": "Tea",
        "conversation_id": "c1",
        "create_time": 1_700_000_000.5,
        "current_node": "d",
        "mapping": {
            "root": {"id": "root", "message": None, "parent": None, "children": ["s"]},
            "s": node("s", "root", "system", "You are helpful."),
            "a": node("a", "s", "user", "I like green tea", at=1_700_000_001.25),
            "b": node("b", "a", "assistant", "an answer that was asked for anew", at=1_700_000_002),
            "t": node("t", "a", "assistant", '{"query": "tea"}', at=1_700_000_002, recipient="browser"),
            "u": node("u", "t", "tool", "results", at=1_700_000_002),
            "c": node("c", "u", "assistant", "Lovely.", {"content_type": "image"}, at=1_700_000_003),
            "d": node("d", "c", "user", {"content_type": "audio_transcription", "text": "Thanks"}, at=None),
        },
    }
]
MEM0 = {
    "results": [
        {
            "id": "m1",
            "memory": "Likes green tea",
            "user_id": "alice",
            "metadata": {"topic": "drinks"},
            "created_at": "2024-07-26T08:41:31.123456-07:00",
        },
        {"id": "m2", "memory": "Books trains", "agent_id": "planner", "created_at": "2024-07-27T00:00:00Z"},
        {"id": "m3", "memory": "Is of nobody", "metadata": None, "created_at": None},
    ]
}
CHAT = [
    {"role": "user", "name": "Ann", "content": "hello", "timestamp": "2026-05-01"},
    {"role": "assistant", "content": "hi", "timestamp": "2026-05-01"},
    {"role": "user", "name": "Ann", "content": "hello", "timestamp": "2026-05-01"},
]


def written(folder: Path, name: str, value: Any) -> str:
    """The path of a new JSON file."""
    path = folder / name
    path.write_text(json.dumps(value))
    return str(path)


def test_conversations_of_chatgpt(ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path) -> None:
    """The branch that was shown last, without what systems and tools said, with its times and its title."""
    file = written(tmp_path, "conversations.json", CHATGPT)
    done = ran(capsys, "import", file)
    assert (done["format"], done["turns"], done["new"], done["pending_jobs"]) == ("chatgpt", 3, 3, 0)
    items = ran(capsys, "list", "--sort", "at")["items"]
    assert [(item["role"], item["text"]) for item in items] == [
        ("user", "I like green tea"),
        ("assistant", "Lovely."),
        ("user", "Thanks"),
    ]
    assert items[0]["at"] == "2023-11-14T22:13:21.250000Z"
    assert {item["scope"]["run_id"] for item in items} == {"c1"}
    assert {item["scope"]["user_id"] for item in items} == {"me"}
    assert items[0]["metadata"] == {"title": "Tea"}
    assert ran(capsys, "import", file)["new"] == 0


def test_a_dump_of_mem0(ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path) -> None:
    """Ids, metadata and dates are kept; options win over ids; the bare list is read too."""
    for value in (MEM0, MEM0["results"]):
        done = ran(capsys, "import", written(tmp_path, "dump.json", value))
        assert (done["format"], done["turns"], done["new"]) == ("mem0", 3, 3 if value is MEM0 else 0)
    (tea,) = ran(capsys, "list", "-u", "alice")["items"]
    assert (tea["text"], tea["metadata"]) == ("Likes green tea", {"topic": "drinks"})
    assert datetime.fromisoformat(tea["at"]) == datetime.fromisoformat("2024-07-26T15:41:31.123456Z")
    assert [item["text"] for item in ran(capsys, "list", "--agent", "planner")["items"]] == ["Books trains"]
    assert [item["text"] for item in ran(capsys, "list")["items"]] == ["Is of nobody"]
    assert ran(capsys, "import", written(tmp_path, "dump.json", MEM0), "-u", "bob")["new"] == 3
    assert len(ran(capsys, "list", "-u", "bob")["items"]) == 3


@pytest.mark.parametrize("shape", ["lines", "list"])
def test_a_chat(ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path, shape: str) -> None:
    """Messages keep order and dates; when the file has grown only what is new is stored; what was said twice is."""
    path = tmp_path / "chat.json"

    def write(messages: list[dict[str, str]]) -> None:
        path.write_text(json.dumps(messages) if shape == "list" else "\n".join(map(json.dumps, messages)))

    write(CHAT)
    assert ran(capsys, "import", str(path), "-u", "ann")["new"] == 3
    write([*CHAT, {"role": "user", "content": "bye", "timestamp": "2026-05-02"}])
    done = ran(capsys, "import", str(path), "-u", "ann")
    assert (done["turns"], done["new"], done["embedding"]["sent"]) == (4, 1, 1)
    items = ran(capsys, "list", "-u", "ann", "--sort", "at")["items"]
    assert [item["text"] for item in items] == ["hello", "hi", "hello", "bye"]
    assert [item["at"][:10] for item in items] == ["2026-05-01"] * 3 + ["2026-05-02"]
    assert "embedded 3 texts in " in said(capsys, "import", str(path), "-u", "bob")[1]


def test_an_import_that_was_stopped_goes_on(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path
) -> None:
    """Ctrl-C says so; the same command stores what is missing."""
    file = tmp_path / "notes.txt"
    file.write_text("\n".join(f"note {i}" for i in range(400)))
    ollama.settings.embed_latency_s = 0.2
    terminal = Terminal("import", str(file), environment={})
    terminal.expect("importing")
    terminal.expect("128/400")
    terminal.interrupt()
    terminal.expect("goes on where it was")
    assert terminal.exit_status() == INTERRUPTED
    ollama.settings.embed_latency_s = 0
    done = ran(capsys, "import", str(file))
    assert (done["turns"], 0 < done["new"] < 400) == (400, True)
    assert len(ran(capsys, "list", "--all")["items"]) == 400


def test_facts_only_when_asked_for(ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path) -> None:
    """`--facts` asks the model about what was imported."""
    fact = {"line": 1, "quote": "I like green tea", "text": "The user likes green tea."}
    ollama.settings.answer = lambda _: json.dumps({"facts": [fact]})
    file = tmp_path / "notes.txt"
    file.write_text("I like green tea\n")
    assert "imported 1 message" in said(capsys, "import", str(file))[0]
    assert not ollama.requests_to("POST /api/chat")
    assert ran(capsys, "import", str(file), "-u", "bob", "--facts")["pending_jobs"] == 0
    assert [item["text"] for item in ran(capsys, "list", "-u", "bob", "--kinds", "fact")["items"]]


def test_what_is_wrong_is_named(ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path) -> None:
    """A bad entry stops everything, unless it is to be left out."""
    file = written(tmp_path, "dump.json", [{"memory": "fine"}, {"memory": " "}, 3])
    assert run(["import", file]) == USAGE
    err = capsys.readouterr().err
    assert "entry 2" in err
    assert "(and 1 more)" in err
    assert ran(capsys, "list")["items"] == []
    assert ran(capsys, "import", file, "--skip-bad")["new"] == 1
    for wrong in (["--format", "chatgpt"], ["--format", "own"], ["--format", "nonsense"]):
        assert run(["import", file, *wrong]) == USAGE
    assert run(["import", str(tmp_path / "nowhere.json")]) == USAGE
    assert run(["import", written(tmp_path, "empty.json", [])]) == USAGE


ODD = [
    {"mapping": {"a": {"message": {**CHATGPT[0]["mapping"]["a"]["message"], "metadata": "x"}}}, "current_node": ["a"]},
    {"mapping": {"a": {"message": {"author": {"role": []}, "content": {"content_type": {}, "parts": 1}}}}},
    {"mapping": {"a": {"message": {**CHATGPT[0]["mapping"]["a"]["message"], "content": {"content_type": "text"}}}}},
    {"mapping": {"a": {"parent": "b"}, "b": {"parent": "a"}}, "current_node": "a"},
    {"memory": "half a pair \ud83d", "metadata": []},
    {"memory": "half a pair \ud83d", "id": "\ud83d", "role": {}},
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "mapping",
                        "memory",
                        "results",
                        "message",
                        "author",
                        "content",
                        "parts",
                        "current_node",
                        "parent",
                    ),
                    *("role", "content_type", "create_time", "created_at", "metadata", "parent", "a"),
                ]
            ),
            inner | st.sampled_from(["user", "text", "a"]),
            max_size=6,
        )
    ),
    max_leaves=20,
)


def check_that_it_is_read_or_refused(value: Any, format: Any) -> None:
    """Read a file that holds a value."""
    try:
        found = recognised(json.dumps(value), name="x", format=format, now=NOW)
    except ConfigError:
        return
    assert all(addition["messages"].content.strip() for addition in found.additions)
    assert all(problem.startswith("x, ") for problem in found.problems)


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_odd_files_are_read_or_refused(value: Any) -> None:
    """What is almost an export does not break the reader."""
    check_that_it_is_read_or_refused(value, "auto")


@given(JSON, st.sampled_from(["auto", "chat", "text", "chatgpt", "mem0"]))
def test_any_json_is_read_or_refused(value: Any, format: Any) -> None:
    """Nothing that can stand in a file breaks the reader: it gives additions and problems, or a `ConfigError`."""
    check_that_it_is_read_or_refused(value, format)


@pytest.mark.parametrize("format", ["auto", "own"])
def test_standard_input_is_imported_as_a_file_is(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """What `export -` writes `import -` reads, and so it does what others export."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ran(capsys, "import", written(tmp_path, "dump.json", MEM0))
    own, _ = said(capsys, "export", "-")
    for text, found in ((own, "own"), (json.dumps(MEM0), "mem0")):
        if format == "own" and found != "own":
            continue
        path = tmp_path / "piped"
        path.write_text(text)
        with path.open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            done = ran(capsys, "import", "-", "--format", format, "--store", str(tmp_path / f"{found}.db"))
        assert (done["format"], done["turns"], done["new"]) == (found, 3, 3)
    assert not list(tmp_path.glob("ollama-async-mem-*"))


def test_standard_input_that_cannot_be_read(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, as of a file."""
    monkeypatch.setattr(sys, "stdin", None)
    assert "name a file" in said(capsys, "import", "-", code=USAGE)[1]
    assert "name a file" in said(capsys, "add", code=USAGE)[1]
