"""What a user types or a pipe gives, put together to whole texts. Knows nothing of what they are for."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import threading
from typing import TYPE_CHECKING

import anyio
from prompt_toolkit import PromptSession

from ollama_async_mem.cli.output import note

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

__all__ = ["Composer", "Reader", "agrees"]

_QUOTES = '"""'


def agrees(question: str) -> bool:
    """Ask on a terminal, outside of event loops; anything but yes is no."""
    note(f"{question} [y/N]", style="yellow")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


class Composer:
    """Puts lines together: one that ends in a backslash goes on in the next, and so does what triple quotes open."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._is_quoted = False

    @property
    def is_waiting(self) -> bool:
        """Whether a text has begun that is not complete."""
        return bool(self._lines) or self._is_quoted

    def feed(self, line: str) -> str | None:
        """Take a line; returns the text that it completes, None where more is to come."""
        if not self.is_waiting and line.lstrip().startswith(_QUOTES):
            self._is_quoted = True
            line = line.lstrip().removeprefix(_QUOTES)
        if self._is_quoted:
            line, closing, _ = line.partition(_QUOTES)
            goes_on = not closing
        else:
            goes_on = line.endswith("\\")
            line = line.removesuffix("\\")
        self._lines.append(line)
        return None if goes_on else self.rest()

    def rest(self) -> str:
        """Return what has come, and begin anew."""
        text = "\n".join(self._lines).strip()
        self._lines, self._is_quoted = [], False
        return text


class Reader:
    """Whole texts from a terminal or a pipe.

    In a terminal, Ctrl-D ends them, and so does Ctrl-C where `was_stopped` is set; it sets that, and a line unsets it.
    """

    def __init__(self) -> None:
        self.was_stopped = False
        self._composer = Composer()

    async def texts(self) -> AsyncGenerator[str, None]:
        """Give the texts that are not blank."""
        async for line in self._typed() if sys.stdin.isatty() else _piped():
            if text := self._composer.feed(line):
                yield text
        if text := self._composer.rest():
            yield text

    async def _typed(self) -> AsyncIterator[str]:
        prompt = PromptSession[str]()
        while True:
            try:
                line = await prompt.prompt_async("... " if self._composer.is_waiting else "> ")
            except KeyboardInterrupt:
                self._composer.rest()
                if self.was_stopped:
                    return
                self.was_stopped = True
                note("Ctrl-C again leaves, and so do Ctrl-D and /exit")
            except EOFError:
                return
            else:
                self.was_stopped = False
                yield line


async def _piped() -> AsyncIterator[str]:
    """Lines of standard input, read by a thread that Ctrl-C need not wait for."""
    loop = asyncio.get_running_loop()
    send, receive = anyio.create_memory_object_stream[str](math.inf)

    def take(line: str) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # nobody reads any more
            send.send_nowait(line)

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is over
            for line in _lines_of(sys.stdin.fileno()):
                loop.call_soon_threadsafe(take, line)
            loop.call_soon_threadsafe(send.close)

    threading.Thread(target=read, name="standard input", daemon=True).start()
    async with receive:
        async for line in receive:
            yield line


def _lines_of(fileno: int) -> Iterator[str]:
    """Read lines without Python's buffers, whose lock a daemon thread would hold at the end of the program."""
    rest = b""
    while data := os.read(fileno, 65536):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    yield rest.decode(errors="replace")
