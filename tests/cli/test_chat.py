"""The terminal chat: its commands, and texts of several lines."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.cli.lines import Composer
from ollama_async_mem.cli.main import run

from .calls import ran
from .test_terminal import Terminal

if TYPE_CHECKING:
    from fakes import ScriptedOllama
    from pytest import CaptureFixture, MonkeyPatch  # noqa: PT013


def chatted(monkeypatch: MonkeyPatch, capsys: CaptureFixture[str], *lines: str) -> tuple[str, str]:
    """Say lines to the chat by a pipe; returns what it wrote to standard output and to standard error."""
    reading, writing = os.pipe()
    os.write(writing, "".join(f"{line}\n" for line in lines).encode())
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run(["chat", "-u", "ann"]) == 0
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (["one", "two"], ["one", "two"]),
        (["one \\", "two"], ["one \ntwo"]),
        (["one\\", "two\\", "three", "four"], ["one\ntwo\nthree", "four"]),
        (['"""one', "", 'two"""', "three"], ["one\n\ntwo", "three"]),
        (['"""', "one\\", '"""', "two"], ["one\\", "two"]),
        (['"""one"""'], ["one"]),
        (["  ", ""], ["", ""]),
        (['say """hi"""'], ['say """hi"""']),
    ],
)
def test_lines_are_put_together(lines: list[str], texts: list[str]) -> None:
    """A backslash goes on, triple quotes hold several lines."""
    composer = Composer()
    fed = [composer.feed(line) for line in lines]
    assert [text for text in fed if text is not None] == texts
    assert not composer.is_waiting


def test_a_text_that_is_not_complete_is_the_rest() -> None:
    """A pipe may end within quotes."""
    composer = Composer()
    assert composer.feed('"""one') is None
    assert composer.is_waiting
    assert (composer.rest(), composer.rest()) == ("one", "")


def test_commands(ollama: ScriptedOllama, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch) -> None:
    """What is remembered by hand is found, recalled and shown; what is forgotten is gone."""
    out, err = chatted(monkeypatch, capsys, "/remember I like green tea", "/search tea", "which tea?", "/why")
    assert "remembered" in err
    assert "user: I like green tea" in out
    assert "I like green tea" in err.partition("remembered")[2]  # /why
    (tea,) = [item for item in ran(capsys, "list", "-u", "ann")["items"] if item["text"] == "I like green tea"]
    _, err = chatted(monkeypatch, capsys, f"/forget {tea['id']}", f"/forget {tea['id']}", "/search", "/nonsense")
    assert "forgotten" in err
    assert f"no memory has the id '{tea['id']}'" in err
    assert err.count("/forget ID") == 3  # the greeting, and two lines that were not understood
    assert tea["id"] not in [item["id"] for item in ran(capsys, "list", "-u", "ann")["items"]]


def test_a_path_is_no_command(ollama: ScriptedOllama, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch) -> None:
    """Only a word behind a slash is."""
    assert "You said: /etc/hosts: what is it?" in chatted(monkeypatch, capsys, "/etc/hosts: what is it?")[0]


def test_several_lines_are_one_message(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    """They reach the model as one."""
    chatted(monkeypatch, capsys, '"""one', 'two"""', "three\\", "four")
    asked = [request.json["messages"][-1]["content"] for request in ollama.requests_to("POST /api/chat")]
    assert [text for text in asked if text in {"one\ntwo", "three\nfour"}] == ["one\ntwo", "three\nfour"]


def test_an_answer_that_fails_is_said(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    """The chat goes on."""
    ollama.settings.only_listed = True
    ollama.settings.models.remove("llama3.2:latest")
    _, err = chatted(monkeypatch, capsys, "hello", "/why")
    assert "model 'llama3.2' not found" in err
    assert "nothing was recalled" in err


def test_the_second_ctrl_c_leaves(ollama: ScriptedOllama) -> None:
    """The first one stops the answer, or says how to leave; a line in between begins anew."""
    ollama.settings.token_interval_s = 0.1
    terminal = Terminal("chat", environment={})
    terminal.expect(">")
    terminal.type("\x03")
    terminal.expect("Ctrl-C again leaves")
    terminal.type("one two three four five six seven eight nine ten\r")
    terminal.expect("You said: one")
    terminal.interrupt()
    terminal.expect("not remembered")
    terminal.expect(">")
    terminal.type("\x03")
    assert terminal.exit_status() == 0


def test_several_lines_in_a_terminal(ollama: ScriptedOllama) -> None:
    """A prompt of its own says that the text goes on; Ctrl-C gives it up."""
    terminal = Terminal("chat", environment={})
    terminal.expect(">")
    terminal.type("given up\\\r")
    terminal.expect("...")
    terminal.type("\x03")
    terminal.expect("Ctrl-C again leaves")
    terminal.type("one\\\r")
    terminal.expect("...")
    terminal.type("two\r")
    terminal.expect("two")
    terminal.expect("You said: one")
    terminal.expect(">")
    terminal.type("\x04")
    assert terminal.exit_status() == 0


@pytest.mark.parametrize("extract", ["false", "true"])
def test_the_settings_say_whether_a_chat_extracts(
    ollama: ScriptedOllama, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch, extract: str
) -> None:
    """Where another process does it, a chat leaves it to that one; `flush` is told to."""
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_EXTRACT", extract)
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_IDLE_S", "0")
    chatted(monkeypatch, capsys, "/remember I like green tea", "which tea?")
    asked = [request for request in ollama.requests_to("POST /api/chat") if request.json.get("format")]
    assert bool(asked) is (extract == "true")
    ran(capsys, "flush")
    assert [request for request in ollama.requests_to("POST /api/chat") if request.json.get("format")]
