"""`MemoryChat`: one answer that uses the memory and is remembered."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.memory.context import memory_block
from ollama_async_mem.records import AddResult, Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ollama_async_mem.memory.service import MemoryService
    from ollama_async_mem.ports import ChatModel
    from ollama_async_mem.records import Scope

__all__ = ["MemoryChat"]

_log = logging.getLogger(__name__)
_REMEMBER_S = 60.0
_CANCELLED_S = 5.0


class MemoryChat:
    """Recall, stream, remember. `async with` recalls and asks; `text()` streams; leaving remembers.

    Only a complete answer is remembered, and then also when the caller is cancelled at that moment, for which it is
    given five seconds.

    Attributes:
        memories: the dated lines that the model was given, "" where nothing fitted.
        added: what was remembered, once the context is left.
    """

    def __init__(
        self,
        memory: MemoryService,
        llm: ChatModel,
        messages: Sequence[Message],
        scope: Scope,
        *,
        max_tokens: int,
        remember: bool,
        infer: Literal["background", "now", False],
    ) -> None:
        self._memory = memory
        self._llm = llm
        self._messages = messages
        self._ids: dict[str, Any] = {name: getattr(scope, name) for name in scope.__struct_fields__}
        self._max_tokens = max_tokens
        self._remembers = remember
        self._infer = infer
        self._stack = AsyncExitStack()
        self._pieces: AsyncIterator[str] | None = None
        self._answer: list[str] = []
        self._complete = False
        self._is_opened = False
        self._asked_at = datetime.now(UTC)
        self.memories = ""
        self.added: AddResult | None = None

    async def __aenter__(self) -> Self:
        if self._is_opened:
            raise ConfigError("a chat is opened once: ask for a new one")
        self._is_opened = True
        self._asked_at = datetime.now(UTC)
        question, known = self._messages[-1].content, [message.content for message in self._messages]
        self.memories = await self._memory.context(question, max_tokens=self._max_tokens, known=known, **self._ids)
        self._pieces = await self._stack.enter_async_context(self._llm.stream(self._prompt()))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_cancelled = kind is not None and issubclass(kind, anyio.get_cancelled_exc_class())
        await self._stack.aclose()
        if self._remembers and self._complete and self.answer.strip():
            limit_s = _CANCELLED_S if is_cancelled else _REMEMBER_S
            with anyio.move_on_after(limit_s, shield=True) as scope:
                await self._remember()
            if scope.cancelled_caught:
                _log.warning("the exchange was not remembered: storing it took longer than %g s", limit_s)
        if self.added and self._infer == "now":
            self.added = await self._memory.settled(self.added)

    async def text(self) -> AsyncIterator[str]:
        """Give the answer piece by piece."""
        if self._pieces is None:
            raise ConfigError("a chat is opened by 'async with' before it is iterated")
        async for piece in self._pieces:
            self._answer.append(piece)
            yield piece
        self._complete = True

    @property
    def answer(self) -> str:
        """The answer as far as it has come."""
        return "".join(self._answer)

    def _prompt(self) -> list[dict[str, str]]:
        messages = [{"role": m.role, "content": m.content} for m in self._messages]
        if self.memories:
            messages.insert(0, {"role": "system", "content": memory_block(self.memories)})
        return messages

    async def _remember(self) -> None:
        answer = Message(role="assistant", content=self.answer, timestamp=datetime.now(UTC))
        self.added = await self._memory.add(
            [self._messages[-1], answer],
            timestamp=self._asked_at,
            infer="background" if self._infer else False,
            **self._ids,
        )
