"""The terminal chat: what is said is remembered, and what is remembered is used."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated

import anyio
from cyclopts import App, Parameter

from ollama_async_mem.cli.lines import Reader
from ollama_async_mem.cli.markdown import typed_out
from ollama_async_mem.cli.options import Setup, Who
from ollama_async_mem.cli.output import note, show_hits
from ollama_async_mem.cli.session import open_memory
from ollama_async_mem.errors import OllamaAsyncMemError
from ollama_async_mem.records import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import FrameType

    from ollama_async_mem.app import Memory

__all__ = ["chatting", "stream_answer"]

_KEPT = 12  # messages of the running conversation that the model sees besides the memory
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
_HELP = """/why             what the last answer was given to remember
/search QUERY    find memories, /remember TEXT and /forget ID change them
/exit, Ctrl-D    leave; Ctrl-C stops an answer, a second one leaves too
/help            this again; a line that ends in \\ goes on in the next one, and
                 so does what stands between \"\"\" and \"\"\""""
_NOBODY = Who()
_DEFAULT = Setup()

chatting = App()


@chatting.command
async def chat(
    *, plain: Annotated[bool, Parameter(negative="")] = False, who: Who = _NOBODY, setup: Setup = _DEFAULT
) -> None:
    """Talk with the chat model; it remembers, also in the next session.

    In the chat, /help tells of /why, /search, /remember, /forget and /exit.

    Args:
        plain: Print answers as the model writes them, also in a terminal, where they are laid out as Markdown.
    """
    async with open_memory(setup, extract=None) as memory, _undisturbed():
        note(f"{memory.llm_model} with the memories of {memory.store.location}\n{_HELP}")
        await _converse(_Conversation(memory, who, plain=plain))


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


async def _converse(conversation: _Conversation) -> None:
    reader = Reader()
    async with aclosing(reader.texts()) as texts:
        async for text in texts:
            command = _COMMAND.fullmatch(text)
            if command and command[1] == "exit":
                return
            if command:
                await conversation.obey(command[1], (command[2] or "").strip())
            else:
                reader.was_stopped = not await conversation.ask(text)


class _Conversation:
    """What was said in this session, and what the last answer was given to remember."""

    def __init__(self, memory: Memory, who: Who, *, plain: bool = False) -> None:
        self._memory = memory
        self._who = who
        self._plain = plain
        self._messages: list[Message] = []
        self._recalled = ""

    async def ask(self, question: str) -> bool:
        """Stream one answer; tells whether it was left to its end. What was stopped or failed is forgotten."""
        asked = [*self._messages[-_KEPT:], Message(content=question)]
        answer = self._recalled = ""
        with _ctrl_c_cancels() as scope, _complaining():
            answer, self._recalled = await stream_answer(self._memory, asked, self._who, plain=self._plain)
        if answer.strip():
            self._messages = [*asked, Message(role="assistant", content=answer)]
        if scope.cancelled_caught:
            note("\nstopped; this exchange is not remembered")
        return not scope.cancelled_caught

    async def obey(self, command: str, argument: str) -> None:
        """Do what a line behind a slash says."""
        with _complaining():
            if command == "why":
                note(self._recalled or "nothing was recalled", wrap=True)
            elif command == "search" and argument:
                found = await self._memory.search(argument, **self._who.ids)
                show_hits(found.hits)
                if not found.hits:
                    note("nothing found")
            elif command == "remember" and argument:
                await self._memory.add(argument, **self._who.ids)
                note("remembered")
            elif command == "forget" and argument:
                await self._memory.delete(argument)
                note("forgotten")
            else:
                note(_HELP)


@contextmanager
def _complaining() -> Iterator[None]:
    """Say what went wrong, and go on."""
    try:
        yield
    except OllamaAsyncMemError as exc:
        note(f"error: {exc}", style="red")


@contextmanager
def _ctrl_c_cancels() -> Iterator[anyio.CancelScope]:
    """Let Ctrl-C end what is within; a second one while that ends is as everywhere."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:

        def stop(number: int, frame: FrameType | None) -> None:
            if scope.cancel_called and callable(previous):
                previous(number, frame)
            else:
                loop.call_soon_threadsafe(scope.cancel)

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield scope
        finally:
            signal.signal(signal.SIGINT, previous)


async def stream_answer(
    memory: Memory,
    messages: list[Message],
    who: Who,
    *,
    max_tokens: int = 800,
    remember: bool = True,
    plain: bool = False,
) -> tuple[str, str]:
    """Print an answer as it comes; returns it with what the model was given to remember."""
    async with memory.chat(messages, max_tokens=max_tokens, remember=remember, **who.ids) as stream:
        with typed_out(plain=plain) as show:
            async for piece in stream.text():
                show(piece)
    if stream.error:
        note(f"this was not remembered: {stream.error}")
    return stream.answer, stream.memories
