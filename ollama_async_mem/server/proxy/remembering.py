"""What is known before a chat, and what is kept behind it. Neither fails nor holds up the chat for long."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec

from ollama_async_mem.memory.context import memory_block
from ollama_async_mem.records import Message

if TYPE_CHECKING:
    from ollama_async_mem.app import Memory
    from ollama_async_mem.records import Scope
    from ollama_async_mem.server.proxy.asked import Asked
    from ollama_async_mem.server.proxy.relay import Copy

__all__ = ["Known", "Remembering"]

RECALL_S = 2.0
REMEMBER_S = 10.0
_MOST_IDS = 20
_MOST_WAITING = 256
_log = logging.getLogger(__name__)


class Known(msgspec.Struct, frozen=True):
    """What fits a question: the text for the model, "" for none, and the ids of the memories in it."""

    text: str = ""
    ids: tuple[str, ...] = ()
    has_failed: bool = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the client is told of it."""
        if self.has_failed:
            return [(b"x-memory", b"failed")]
        listed = ",".join(self.ids[:_MOST_IDS]).encode("ascii", "replace")
        told = [(b"x-memory", b"on"), (b"x-memory-recalled", str(len(self.ids)).encode())]
        return [*told, (b"x-memory-ids", listed)] if listed else told


class Remembering:
    """Asks a memory and adds to it."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._tasks: set[asyncio.Task[None]] = set()

    async def recall(self, asked: Asked, ids: Scope) -> Known:
        """Find what fits a question; takes 2 seconds at most, and a failure is told in the log."""
        try:
            with anyio.fail_after(RECALL_S):
                return await self._known(asked, ids)
        except Exception as exc:  # noqa: BLE001 - the chat goes on without
            _log.warning("a chat goes on without memories: %s", str(exc) or f"nothing within {RECALL_S:g} s")
            return Known(has_failed=True)

    async def _known(self, asked: Asked, ids: Scope) -> Known:
        found = await self.memory.recall(asked.question, known=asked.known, **msgspec.structs.asdict(ids))
        if not found.text:
            return Known()
        own = "" if asked.has_system else await self.memory.client.models.instructions(asked.model)
        block = memory_block(found.text)
        return Known(f"{own}\n\n{block}" if own else block, tuple(hit.id for hit in found.hits))

    def remember(self, asked: Asked, copy: Copy, ids: Scope, asked_at: datetime) -> None:
        """Add a question and its answer in the background, if the answer is complete."""
        if len(self._tasks) >= _MOST_WAITING:
            _log.warning("an exchange was not remembered: %d others are still being stored", _MOST_WAITING)
            return
        task = asyncio.create_task(self._remembered(asked, copy, ids, asked_at))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remembered(self, asked: Asked, copy: Copy, ids: Scope, asked_at: datetime) -> None:
        try:
            with anyio.fail_after(REMEMBER_S):
                if (answer := await anyio.to_thread.run_sync(copy.text)) is None:
                    return
                said = [Message(content=asked.question)]
                if asked.is_free:
                    said.append(Message(role="assistant", content=answer, timestamp=datetime.now(UTC)))
                await self.memory.add(said, timestamp=asked_at, **msgspec.structs.asdict(ids))
        except Exception as exc:  # noqa: BLE001 - the answer was given; nobody is there to hear of it
            _log.warning("an exchange was not remembered: %s", str(exc) or f"not within {REMEMBER_S:g} s")

    async def settled(self) -> None:
        """Wait for what is still being added."""
        if self._tasks:
            await asyncio.wait(self._tasks)
