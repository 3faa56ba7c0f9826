"""Where a request goes, for whom, and whether its key may ask for it. Pure: reads the ASGI scope alone."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from ollama_async_mem.server.access import principal_of
from ollama_async_mem.server.errors import Forbidden

if TYPE_CHECKING:
    from ollama_async_mem.records import Scope
    from ollama_async_mem.server.request import AsgiScope

__all__ = ["Target", "ids_of", "require_allowed", "target_of"]

_USER_PREFIX = b"/u/"
_OPENAI = "/v1/"
_API = ("chat", "generate", "embed", "embeddings", "show", "tags", "ps", "version", "status")
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_FOR_ALL = frozenset({"/", *(f"/api/{name}" for name in _API)})
"""What a key that is not an admin's may ask for, besides the paths of OpenAI: all else changes what belongs to all."""


class Target(msgspec.Struct, frozen=True):
    """The method, the path as the server sees it, the bytes that are asked for, and the user that the path names."""

    method: str
    path: str
    raw: bytes
    user_id: str | None

    @property
    def is_for_all(self) -> bool:
        """Whether any key may ask for it: it changes nothing that belongs to others."""
        is_openai = self.path.startswith(_OPENAI) and ".." not in self.path and "%" not in self.path
        return self.method in _METHODS and (self.path in _FOR_ALL or is_openai)


def target_of(scope: AsgiScope) -> Target:
    """Take the user from the front of the path: `/u/alice/api/chat` is `/api/chat` for alice."""
    path, user = scope["raw_path"], None
    if path.startswith(_USER_PREFIX):
        name, _, rest = path.removeprefix(_USER_PREFIX).partition(b"/")
        path, user = b"/" + rest, unquote(name.decode("latin-1")) or None
    query = scope["query_string"]
    return Target(scope["method"], unquote(path.decode("latin-1")), path + b"?" + query if query else path, user)


def require_allowed(scope: AsgiScope, target: Target) -> None:
    """Do nothing where whoever asks may ask for that.

    Raises:
        Forbidden: it needs an admin.
    """
    if not (target.is_for_all or principal_of(scope).admin):
        raise Forbidden("this changes what belongs to all, and needs a key that was made with --admin")


def ids_of(scope: AsgiScope, target: Target, default_user: str) -> Scope:
    """Return whose memory it is: the user of the key, else of the header, else of the path, else the default.

    Raises:
        Forbidden: the key is bound to another user or agent than is named.
    """
    headers = {name: value.decode("utf-8", "replace").strip() or None for name, value in scope["headers"]}
    principal = principal_of(scope)
    named = headers.get(b"x-memory-user") or target.user_id
    found = principal.scope(named, headers.get(b"x-memory-agent"), headers.get(b"x-memory-run"))
    return msgspec.structs.replace(found, user_id=found.user_id or default_user)
