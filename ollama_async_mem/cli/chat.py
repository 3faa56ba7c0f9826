"""The terminal chat: what is said is remembered, and what is remembered is used."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio
from cyclopts import App
from prompt_toolkit import PromptSession

from ollama_async_mem.cli.options import Setup, Who
from ollama_async_mem.cli.output import note, say
from ollama_async_mem.cli.session import open_memory
from ollama_async_mem.errors import OllamaError
from ollama_async_mem.records import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ollama_async_mem.app import Memory

__all__ = ["chatting", "stream_answer"]

_KEPT = 12  # messages of the running conversation that the model sees besides the memory
_HELP = "Ctrl-C stops an answer, Ctrl-D or /exit leaves, /why shows what the last answer was given to remember"
_NOBODY = Who()
_DEFAULT = Setup()

chatting = App()


@chatting.command
async def chat(*, who: Who = _NOBODY, setup: Setup = _DEFAULT) -> None:
    """Talk with the chat model; it remembers, also in the next session."""
    async with open_memory(setup, extract=True) as memory, _undisturbed():
        note(f"{memory.llm_model} with the memories of {memory.store.location}\n{_HELP}")
        await _converse(memory, who)


@asynccontextmanager
async def _undisturbed() -> AsyncIterator[None]:
    """Keep warnings out of the conversation."""
    log = logging.getLogger("ollama_async_mem")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


async def _converse(memory: Memory, who: Who) -> None:
    messages: list[Message] = []
    recalled = ""
    async for question in _questions():
        if question == "/exit":
            return
        if question == "/why":
            note(recalled or "nothing was recalled")
            continue
        asked = [*messages[-_KEPT:], Message(content=question)]
        answer, recalled = await _interruptible(memory, asked, who)
        if answer.strip():  # a stopped or failed exchange is forgotten
            messages = [*asked, Message(role="assistant", content=answer)]


async def _questions() -> AsyncIterator[str]:
    """Lines that the user types, or those of a pipe, without the blank ones."""
    async for line in _typed() if sys.stdin.isatty() else _piped():
        if line.strip():
            yield line.strip()


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


async def _typed() -> AsyncIterator[str]:
    prompt = PromptSession[str]("> ")
    while True:
        try:
            yield await prompt.prompt_async()
        except KeyboardInterrupt:
            note("Ctrl-D or /exit leaves")
        except EOFError:
            return


async def _interruptible(memory: Memory, messages: list[Message], who: Who) -> tuple[str, str]:
    """Stream one answer; Ctrl-C ends it and not the program."""
    try:
        with _ctrl_c_cancels() as scope:
            return await stream_answer(memory, messages, who)
    except OllamaError as exc:
        note(f"error: {exc}", style="red")
    if scope.cancelled_caught:
        note("\nstopped; this exchange is not remembered")
    return "", ""


@contextmanager
def _ctrl_c_cancels() -> Iterator[anyio.CancelScope]:
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        previous = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(scope.cancel))
        try:
            yield scope
        finally:
            signal.signal(signal.SIGINT, previous)


async def stream_answer(
    memory: Memory, messages: list[Message], who: Who, *, max_tokens: int = 800, remember: bool = True
) -> tuple[str, str]:
    """Print an answer as it comes; returns it with what the model was given to remember."""
    async with memory.chat(messages, max_tokens=max_tokens, remember=remember, **who.ids) as stream:
        async for piece in stream.text():
            say(piece, end="")
            sys.stdout.flush()
    say()
    return stream.answer, stream.memories
