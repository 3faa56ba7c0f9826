"""Who asks, and what they may see and change. Pure: knows nothing of keys, files or HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.records import Scope
from ollama_async_mem.server.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ollama_async_mem.records import MemoryRecord

__all__ = ["LOCAL", "Principal", "principal_of"]


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who a request comes from. A `user_id` or `agent_id` of None is any; one that is set is the only one allowed."""

    name: str
    user_id: str | None = None
    agent_id: str | None = None
    may_write: bool = True
    admin: bool = False

    def scope(self, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None) -> Scope:
        """Return the scope that is asked for, with the ids that this principal is bound to filled in.

        Raises:
            Forbidden: it names another user or agent than this principal is bound to.
        """
        return Scope(_bound("user", self.user_id, user_id), _bound("agent", self.agent_id, agent_id), run_id)

    def owns(self, memory: MemoryRecord) -> bool:
        """Tell whether a memory is of the user and agent that this principal is bound to."""
        own = memory.scope
        return self.user_id in {None, own.user_id} and self.agent_id in {None, own.agent_id}

    def require_write(self) -> None:
        """Do nothing where this principal may change memories.

        Raises:
            Forbidden: it may only read.
        """
        if not self.may_write:
            raise Forbidden("this may only read: it needs a key, or a start, without --read-only")

    def require_admin(self) -> None:
        """Do nothing where this principal may change what belongs to all: models, settings, the whole store.

        Raises:
            Forbidden: it may not.
        """
        self.require_write()
        if not self.admin:
            raise Forbidden("this needs a key that was made with --admin")


# Whoever reaches a loopback server that has no keys: the owner of the machine.
LOCAL = Principal(name="local", admin=True)


def principal_of(scope: Mapping[str, Any]) -> Principal:
    """Return who an ASGI request comes from, as the guard wrote it there; LOCAL where an app runs without a guard."""
    principal: Principal = scope.get("state", {}).get("principal", LOCAL)
    return principal


def _bound(what: str, own: str | None, asked: str | None) -> str | None:
    if own is None:
        return asked
    if asked in {None, own}:
        return own
    raise Forbidden(f"this key is bound to another {what}: leave the {what} out, or use a key for it")
