"""Markdown on a terminal while it comes in: what is complete is printed once, the last block is drawn anew.

Knows nothing of where the text comes from, and does not trust it: none of it reaches the terminal as a control code.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from markdown_it import MarkdownIt
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

from ollama_async_mem.cli.output import printable, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from markdown_it.token import Token
    from rich.console import ConsoleOptions, RenderResult

__all__ = ["MarkdownStream", "typed_out"]

_REST = 5
"""How many times as long as it took nothing is drawn after a drawing: it costs a sixth of the time at most."""
_SPARE_LINES = 2
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])  # HTML is text like other text


@contextmanager
def typed_out(*, plain: bool = False) -> Iterator[Callable[[str], None]]:
    """Yield what prints an answer piece by piece: as Markdown on a terminal, as it is where that is asked for."""
    console = Console(highlight=False)
    if not plain and sys.stdout.isatty() and not console.is_dumb_terminal:
        console.print()
        with MarkdownStream(console) as stream:
            yield stream.feed
        console.print()
        return
    yield _write
    say()


def _write(piece: str) -> None:
    say(piece, end="")
    sys.stdout.flush()


class MarkdownStream:
    """Prints Markdown that comes in pieces, between entering and leaving.

    Blocks behind which another one has begun are complete and never touched again, so a long answer scrolls away as any
    text does. Of the last block as many lines are drawn as the terminal can take back, and all of it in the end.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._rest = ""
        self._is_first = True
        self._next_drawing = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.update("")
        self._live.stop()
        self._print(self._rest)

    def feed(self, piece: str) -> None:
        """Print one more piece."""
        self._rest += piece
        if "\n" in piece:
            complete, self._rest = _split(self._rest)
            if complete:
                self._live.update("")
                self._print(complete)
                self._next_drawing = 0.0
        began = time.monotonic()
        if began >= self._next_drawing:
            self._live.update(_Drawing(self._rest, after_blank=not self._is_first), refresh=True)
            done = time.monotonic()
            self._next_drawing = done + _REST * (done - began)

    def _print(self, text: str) -> None:
        if text.strip():
            self._console.print(_Drawing(text, after_blank=not self._is_first, is_whole=True))
            self._is_first = False


def _split(text: str) -> tuple[str, str]:
    """Part the blocks that are complete from the last one. Only whole lines count: "2" may become "2. item"."""
    last = _starts(text.rpartition("\n")[0])[-1]
    lines = text.split("\n")
    return "".join(f"{line}\n" for line in lines[:last]), "\n".join(lines[last:])


def _starts(text: str) -> list[int]:
    """The numbers of the lines with which the blocks begin, the first of them 0."""
    tokens = _PARSER.parse(text)
    starts = [token.map[0] for token in tokens if token.map and token.level == 0 and token.nesting >= 0]
    return [0, *starts[1:]]


class _Block(Markdown):
    """Markdown in the terminal's own colours, whose links are seen, and whose lines end where the model ended them."""

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.parsed = _PARSER.parse(text)
        for token in self.parsed:
            _keep_breaks(token)


def _keep_breaks(token: Token) -> None:
    for child in token.children or ():
        if child.type == "softbreak":
            child.type = "hardbreak"


class _Drawing:
    """Blocks with a blank line between them: as many of the last lines as can be drawn over, or all of them."""

    def __init__(self, text: str, *, after_blank: bool, is_whole: bool = False) -> None:
        self._text = text
        self._after_blank = after_blank
        self._is_whole = is_whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = self._lines(console, options.update(height=None))
        room = len(lines) if self._is_whole else max(console.height - _SPARE_LINES, 1)
        for line in lines[-room:]:
            yield from line
            yield Segment.line()

    def _lines(self, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
        found: list[list[Segment]] = []
        written = self._text.split("\n")
        starts = _starts(self._text)
        for start, end in zip(starts, [*starts[1:], len(written)], strict=True):
            block = _Block("\n".join(written[start:end]))
            lines = _without_blank_ends([_safe(line) for line in console.render_lines(block, options, pad=False)])
            found += [[], *lines] if lines and (found or self._after_blank) else lines
        return found


def _safe(line: list[Segment]) -> list[Segment]:
    """Take out control characters here, where also "&#27;" has become one."""
    return [Segment(printable(text), style) for text, style, _ in line]


def _without_blank_ends(lines: list[list[Segment]]) -> list[list[Segment]]:
    shown = [number for number, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
    return lines[shown[0] : shown[-1] + 1] if shown else []
