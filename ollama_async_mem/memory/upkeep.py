"""What a memory does by itself while it is open."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from ollama_async_mem.errors import StoreError
from ollama_async_mem.events import MemoriesDeleted
from ollama_async_mem.records import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_async_mem.events import MemoryEvent
    from ollama_async_mem.ports import MemoryStore

__all__ = ["purge"]

_log = logging.getLogger(__name__)
_PURGE_S = 3600.0


async def purge(store: MemoryStore, tell: Callable[[MemoryEvent], None]) -> None:
    """Destroy what expired, now and every hour, until cancelled."""
    while True:
        try:
            count = await store.purge_expired(now=datetime.now(UTC))
        except StoreError as exc:
            _log.warning("expired memories could not be destroyed, trying again in an hour: %s", exc)
        else:
            if count:
                tell(MemoriesDeleted(Scope(), count, "expired"))
        await anyio.sleep(_PURGE_S)
