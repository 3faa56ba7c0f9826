"""What every store checks of a call, how it writes cursors, and why it destroys facts by itself. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import msgspec

from ollama_async_mem.errors import ConfigError, EmbeddingMismatch
from ollama_async_mem.records import Kind, Sort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.records import EmbeddingSpace

T = TypeVar("T")
MAX_LIMIT = 1 << 53
MESSAGES_DELETED = "its messages were deleted"
MESSAGE_CHANGED = "its message was changed"

__all__ = [
    "MESSAGES_DELETED",
    "MESSAGE_CHANGED",
    "check",
    "check_around",
    "decode_cursor",
    "encode_cursor",
    "require_space",
]


def check(kinds: Sequence[Kind], limit: int = 1, sort: Sort = "-at") -> None:
    """Check what a caller asks for.

    Raises:
        ConfigError: a kind or the sort is unknown, or the limit is below 1 or beyond what databases count.
    """
    if sort not in get_args(Sort):
        raise ConfigError(f"unknown sort {sort!r}; allowed: {', '.join(get_args(Sort))}")
    if unknown := set(kinds) - set(get_args(Kind)):
        raise ConfigError(f"unknown kinds {sorted(unknown)}; allowed: {', '.join(get_args(Kind))}")
    _check_number("limit", limit, least=1)


def check_around(before: int, after: int) -> None:
    """Check how many neighbours a caller asks for.

    Raises:
        ConfigError: a number is below 0 or beyond what databases count.
    """
    _check_number("before", before, least=0)
    _check_number("after", after, least=0)


def _check_number(name: str, value: int, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number, got {value!r:.80}")
    if not least <= value <= MAX_LIMIT:
        raise ConfigError(f"{name} must be at least {least} and at most {MAX_LIMIT:,}, got {value}")


def require_space(bound: EmbeddingSpace, space: EmbeddingSpace, where: str) -> None:
    """Check that vectors of a space can be compared with those of the store.

    Raises:
        EmbeddingMismatch: they are of another model or dimension.
    """
    if bound != space:
        expected, got = (f"{s.model} with {s.dimension} dimensions" for s in (bound, space))
        raise EmbeddingMismatch(expected=expected, got=got, where=f"the store {where}")


def encode_cursor(listing: str, place: Sequence[int | str]) -> str:
    """A place in a listing as text."""
    return base64.urlsafe_b64encode(msgspec.json.encode((listing, *place))).decode()


def decode_cursor(cursor: str, listing: str, kind: type[T]) -> T:
    """The name of the listing and the place.

    Raises:
        ConfigError: no page of this listing had such a cursor.
    """
    try:
        found: Any = msgspec.json.decode(base64.b64decode(cursor, b"-_", validate=True), type=kind)
    except (msgspec.MsgspecError, binascii.Error, ValueError, TypeError) as exc:
        raise ConfigError(f"the cursor {cursor!r:.200} is not one that a page of this listing had") from exc
    if found[0] != listing:
        raise ConfigError(f"the cursor {cursor!r:.200} is of another listing, {found[0]!r:.20}, not of {listing!r}")
    return cast("T", found)
