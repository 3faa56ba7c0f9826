"""Markdown that comes in pieces: what stays on the screen is what it looks like as a whole."""

from __future__ import annotations

import io
import random
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ollama_async_mem.cli.markdown import MarkdownStream

from .test_terminal import Terminal

if TYPE_CHECKING:
    from fakes import ScriptedOllama

WIDTH, HEIGHT = 40, 8
_CODES = re.compile(r"\x1b\[(\??\d*(?:;\d+)*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Screen:
    """A terminal that knows what is written here: text, CR, LF, colours, lines up, erase a line."""

    def __init__(self, height: int = HEIGHT) -> None:
        self.lines = [""]
        self.height = height
        self._row = self._column = 0
        self.drawn = 0

    def write(self, data: str) -> None:
        """Show what a program writes."""
        for count, code, cr, lf, text in _CODES.findall(data):
            if cr:
                self._column = 0
            elif lf:
                self._row, self._column = self._row + 1, 0
                self.lines += [""] * (self._row + 1 - len(self.lines))
            elif text:
                line = self.lines[self._row].ljust(self._column)
                self.lines[self._row] = line[: self._column] + text + line[self._column + len(text) :]
                self._column += len(text)
            elif code == "A":
                self._row -= int(count or 1)
                assert self._row >= max(0, len(self.lines) - self.height), "it drew over what has scrolled away"
            elif code == "K":
                self.lines[self._row] = ""
                self.drawn += 1
            else:
                assert code in "mhl", (count, code)

    @property
    def text(self) -> str:
        """All that was ever shown and stayed."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip()


def streamed(pieces: list[str], height: int = HEIGHT) -> tuple[str, str]:
    """What stays on a screen; and what was written to it."""
    file, screen = io.StringIO(), Screen(height)
    with MarkdownStream(Console(file=file, force_terminal=True, width=WIDTH, height=height)) as stream:
        for piece in pieces:
            stream.feed(piece)
    screen.write(file.getvalue())
    return screen.text, file.getvalue()


LONG = "\n\n".join(f"Paragraph {n} with **some** words that do not fit on a single line." for n in range(12))
CODE = "Look:\n\n```python\n" + "\n".join(f"print({n})" for n in range(30)) + "\n```\n\nThat is it."
TABLE = "| a | b |\n|---|---|\n| 1 | 2 |\n"
ITEMS = f"# Title\n\n1. one\n\n2. two\n   - deep\n\n10. ten\n\nafter\n---\n> quoted\n> twice\n\n{TABLE}"
PLAIN = "just one line"


@pytest.mark.parametrize("text", [LONG, CODE, ITEMS, PLAIN, "", "\n\n", "<div>kept</div>\n\n<b>too</b>", "a\nb\nc"])
@pytest.mark.parametrize("seed", range(4))
def test_pieces_end_as_the_whole(text: str, seed: int) -> None:
    """However the text is cut, the same stays, and nothing that has scrolled away is drawn over."""
    chance = random.Random(seed)  # noqa: S311 - it guards nothing
    cuts = sorted(chance.sample(range(len(text) + 1), min(len(text) + 1, 60)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert streamed(pieces)[0] == streamed([text])[0]
    assert streamed(list(text))[0] == streamed([text])[0]


def test_how_it_looks() -> None:
    """Marks become looks, blocks stand apart, HTML and line ends stay, links are told."""
    shown, codes = streamed([ITEMS + "\n<div>kept</div>\n\none\ntwo\n\n[here](https://example.org/x) and **bold**"])
    assert "**" not in shown
    assert "\x1b[1mbold" in codes
    assert "<div>kept</div>" in shown
    assert "one\ntwo" in shown
    assert "here (https://example.org/x)" in shown
    assert re.search(r"^ *1 one\n *2 two\n", shown, re.MULTILINE)


def test_what_is_complete_is_drawn_once() -> None:
    """A long answer costs what its last block does."""
    _, codes = streamed([f"{word} " for word in LONG.split(" ")])
    assert codes.count("Paragraph 0") < codes.count("\x1b[2K")
    last = codes.rindex("Paragraph 0")
    assert "Paragraph 2" not in codes[:last]


@given(st.text("ab*_`#>-|1. \n[]()!<&;~=\\\t:x27\x1b\x9b", max_size=60), st.integers(1, 9))
def test_anything_may_be_said(text: str, size: int) -> None:
    """No text breaks it, steers the terminal, or leaves something behind."""
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert streamed(pieces)[0] == streamed([text] if text else [])[0]


@pytest.mark.parametrize("text", ["a\x1b]0;title\x07b", "a&#27;]0;title&#7;b", "`a\x9b2Jb`", "[a](http://x/&#27;[2J)"])
def test_an_answer_does_not_steer_the_terminal(text: str) -> None:
    """Neither by control characters nor by those that Markdown writes otherwise."""
    _, codes = streamed([text])
    assert not set(re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", codes)) & {"\x1b", "\x07", "\x9b"}
    assert "\x1b[2J" not in codes


def test_a_chat_shows_markdown_in_a_terminal(ollama: ScriptedOllama) -> None:
    """Unless it is told not to."""
    ollama.settings.answer = lambda _: "Take **two** `eggs`."
    for options, shown in (([], "\x1b[1mtwo\x1b[0m"), (["--plain"], "Take **two** `eggs`.")):
        terminal = Terminal("chat", *options, environment={"COLUMNS": "80"})
        terminal.expect(">")
        terminal.type("what now?\r")
        terminal.expect(shown)
        terminal.expect(">")
        terminal.type("\x04")
        assert terminal.exit_status() == 0


def test_ctrl_c_leaves_what_has_come(ollama: ScriptedOllama) -> None:
    """Complete blocks and the last one, then the prompt again."""
    ollama.settings.token_interval_s = 0.1
    ollama.settings.answer = lambda _: "# Title\n\n" + "word **" + "and so on " * 50
    terminal = Terminal("chat", environment={"COLUMNS": "80"})
    terminal.expect(">")
    terminal.type("what now?\r")
    terminal.expect("word")
    terminal.interrupt()
    terminal.expect("word")
    terminal.expect("not remembered")
    terminal.expect(">")
    terminal.type("\x04")
    assert terminal.exit_status() == 0
