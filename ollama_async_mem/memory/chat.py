"""`MemoryChat`: one answer that uses the memory and is remembered."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio

from ollama_async_mem.errors import ConfigError, StoreClosed, StoreError
from ollama_async_mem.memory.context import memory_block
from ollama_async_mem.memory.conversation import has_instructions, with_memories
from ollama_async_mem.ports import InstructedModel
from ollama_async_mem.records import AddResult, Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from ollama_async_mem.memory.checks import Infer
    from ollama_async_mem.memory.courtesy import Courtesy
    from ollama_async_mem.memory.service import MemoryService
    from ollama_async_mem.ports import ChatModel
    from ollama_async_mem.records import Hit, Scope

__all__ = ["MemoryChat"]

_log = logging.getLogger(__name__)
_REMEMBER_S = 60.0
_CANCELLED_S = 5.0


class MemoryChat:
    """Recall, stream, remember. `async with` recalls; `text()` asks and streams; leaving remembers.

    Only a complete answer is remembered, also when the caller is cancelled before or while that is done, for which it
    then has five seconds. A failure there is logged and is no error of the chat: the answer was given.

    Attributes:
        memories: the dated lines that the model is given, "" where nothing fits.
        hits: what these lines tell, best first, with the parts of their scores.
        added: what was remembered, once the context is left; None where nothing was.
        error: why a complete answer was not remembered.
    """

    def __init__(
        self,
        memory: MemoryService,
        llm: ChatModel,
        messages: Sequence[Message],
        scope: Scope,
        *,
        prompt: Sequence[dict[str, Any]],
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        courtesy: Courtesy,
        max_tokens: int,
        min_score: float,
        remember: bool,
        infer: Infer,
    ) -> None:
        self._memory = memory
        self._llm = llm
        self._messages = messages
        self._ids: dict[str, Any] = {name: getattr(scope, name) for name in scope.__struct_fields__}
        self._prompt = prompt
        self._start = start
        self._courtesy = courtesy
        self._is_waited_for = False
        self._limits: dict[str, Any] = {"max_tokens": max_tokens, "min_score": min_score}
        self._remembers = remember
        self._infer = infer
        self._stack = AsyncExitStack()
        self._is_asked = False
        self._answer: list[str] = []
        self._complete = False
        self._is_opened = False
        self._asked_at = datetime.now(UTC)
        self.memories = ""
        self.hits: tuple[Hit, ...] = ()
        self.added: AddResult | None = None
        self.error: Exception | None = None

    async def __aenter__(self) -> Self:
        if self._is_opened:
            raise ConfigError("a chat is opened once: ask for a new one")
        self._is_opened = self._is_waited_for = True
        self._courtesy.begin()
        try:
            await self._recall()
        except BaseException:
            self._end()
            raise
        return self

    async def _recall(self) -> None:
        self._asked_at = datetime.now(UTC)
        question, known = self._messages[-1].content, [message.content for message in self._messages]
        if question.strip():  # else it is an image, for which nothing can be looked up
            found = await self._memory.recall(question, known=known, **self._limits, **self._ids)
            self.memories, self.hits = found.text, found.hits

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        cancelled = anyio.get_cancelled_exc_class()
        self._end()
        remembering = _Remembering()  # begun before the first wait: each may be where the caller is cancelled
        self._begin(remembering)
        try:
            if kind and issubclass(kind, cancelled):
                remembering.hurry()
            await self._stack.aclose()
            await remembering.done.wait()
        except cancelled:
            remembering.hurry()
            with anyio.CancelScope(shield=True):
                await remembering.done.wait()
            raise
        if self.added and self._infer == "now" and kind is None:
            self.added = await self._memory.settled(self.added)

    async def text(self) -> AsyncIterator[str]:
        """Ask the model, and give its answer piece by piece.

        Raises:
            ConfigError: the chat is not opened by `async with`, or was asked before.
            OllamaError: the model could not be asked, or its answer broke.
        """
        if not self._is_opened or self._is_asked:
            raise ConfigError("a chat is opened by 'async with', and then iterated once")
        self._is_asked = True
        async for piece in await self._stack.enter_async_context(self._llm.stream(await self._prompted())):
            self._courtesy.go_on()
            self._answer.append(piece)
            yield piece
        self._complete = True
        self._end()

    async def _prompted(self) -> Sequence[dict[str, Any]]:
        """The conversation with the memories in it."""
        if not self.memories:
            return self._prompt
        own = ""
        if isinstance(self._llm, InstructedModel) and not has_instructions(self._prompt):
            own = await self._llm.instructions()
        return with_memories(self._prompt, memory_block(self.memories), instructions=own)

    @property
    def answer(self) -> str:
        """The answer as far as it has come."""
        return "".join(self._answer)

    def _end(self) -> None:
        """Let the model be asked for facts again: the answer is there, or nobody waits for it any more."""
        if self._is_waited_for:
            self._is_waited_for = False
            self._courtesy.end()

    def _begin(self, remembering: _Remembering) -> None:
        if not (self._remembers and self._complete and self.answer.strip()):
            remembering.done.set()
            return
        try:
            self._start(partial(self._remember, remembering))
        except StoreClosed as exc:
            remembering.done.set()
            self._failed(exc)

    async def _remember(self, remembering: _Remembering) -> None:
        try:
            with remembering.limit:
                await self._add()
            if remembering.limit.cancelled_caught:
                self._failed(StoreError(f"storing it took longer than {remembering.limit_s:g} s"))
        except Exception as exc:  # noqa: BLE001 - the answer was given; the task is the memory's, which goes on
            self._failed(exc)
        finally:
            remembering.done.set()

    async def _add(self) -> None:
        answer = Message(role="assistant", content=self.answer, timestamp=datetime.now(UTC))
        self.added = await self._memory.add(
            [self._messages[-1], answer],
            timestamp=self._asked_at,
            infer="background" if self._infer else False,
            **self._ids,
        )

    def _failed(self, exc: Exception) -> None:
        self.error = exc
        _log.warning("an exchange was not remembered: %s", exc)


class _Remembering:
    """How long the remembering may take, and whether it is done. It ends by its limit alone."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.limit_s = _REMEMBER_S
        self.limit = anyio.CancelScope(deadline=anyio.current_time() + _REMEMBER_S, shield=True)

    def hurry(self) -> None:
        """Let it end soon: somebody who was cancelled waits."""
        if self.limit_s > _CANCELLED_S:
            self.limit_s = _CANCELLED_S
            self.limit.deadline = min(self.limit.deadline, anyio.current_time() + _CANCELLED_S)
