"""How times and ids of users, agents and runs are written into columns. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from ollama_async_mem.errors import StoreError

__all__ = ["from_micros", "from_micros_or_none", "intern_name", "micros", "micros_or_none", "name_text"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(at: datetime) -> int:
    """Microseconds since 1970 of a datetime.

    Raises:
        StoreError: it has no timezone, or lies outside the years 1 to 9999 in UTC.
    """
    if at.utcoffset() is None:
        raise StoreError(f"the time {at} has no timezone")
    try:
        since = (at if at.tzinfo is UTC else at.astimezone(UTC)) - _EPOCH
    except OverflowError as exc:
        raise StoreError(f"the time {at} is out of range") from exc
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def micros_or_none(at: datetime | None) -> int | None:
    """The same, where there need not be one."""
    return None if at is None else micros(at)


def from_micros(at: int, offset_s: int = 0) -> datetime:
    """The other way, in UTC or on a clock that is `offset_s` ahead of it."""
    in_utc = _EPOCH + timedelta(microseconds=at)
    return in_utc.astimezone(timezone(timedelta(seconds=offset_s))) if offset_s else in_utc


def from_micros_or_none(at: int | None) -> datetime | None:
    """The same, where there need not be one."""
    return None if at is None else from_micros(at)


def intern_name(name: str) -> bytes:
    """An id of a user, agent or run as bytes: any text, each distinct, in the order of their code points."""
    return name.encode("utf-8", "surrogatepass")


def name_text(raw: bytes) -> str:
    """The other way."""
    return raw.decode("utf-8", "surrogatepass")
