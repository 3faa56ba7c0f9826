"""The line that is logged for each request that changes something: who, what and when, and never any text."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.server.keys import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AUDIT_LOGGER", "Audit", "audit_of", "write_line"]

AUDIT_LOGGER = "ollama_async_mem.audit"
_log = logging.getLogger(AUDIT_LOGGER)
_KEY = re.compile(rf"{PREFIX}[\w-]+")
_MOST_LETTERS = 256
_encode = msgspec.json.Encoder().encode


class Audit(msgspec.Struct, kw_only=True):
    """What is known of a request. Whoever answers it adds the `ids` it changed, and says when it `changes` nothing.

    `route` is set where the path alone does not tell, such as the name of a tool.
    """

    changes: bool
    route: str = ""
    ids: list[str] = []


def audit_of(scope: Mapping[str, Any]) -> Audit:
    """Return the record of an ASGI request to add to; where an app runs without a guard, nobody reads it."""
    found: Audit = scope.get("state", {}).get("audit") or Audit(changes=False)
    return found


def write_line(scope: Mapping[str, Any], audit: Audit, *, key: str, path: str, status: int) -> None:
    """Log one line of JSON: time, key, address, method, route, ids, status. A status of 0 is an answer that broke off.

    The route is that of the framework, or the beginning of the path without its query and without a key that somebody
    put there; ids on the path count too.
    """
    client = scope.get("client")
    line = {
        "time": datetime.now(UTC),
        "key": key,
        "address": client[0] if client else None,
        "method": scope["method"],
        "route": audit.route or scope.get("path_template") or _KEY.sub(f"{PREFIX}...", path[:_MOST_LETTERS]),
        "ids": list(dict.fromkeys([*_on_path(scope), *audit.ids])),
        "status": status,
    }
    _log.info("%s", _encode(line).decode())


def _on_path(scope: Mapping[str, Any]) -> list[str]:
    """The ids that the framework found on the path."""
    return [str(value).removeprefix("/") for value in scope.get("path_params", {}).values()]
