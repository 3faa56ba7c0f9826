"""What callers give beside messages, checked: whose memory, what to look for, how much, and when. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.memory.texts import clean
from ollama_async_mem.records import Kind, Scope, Selection, Sort

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Infer",
    "as_time",
    "require_count",
    "require_end",
    "require_infer",
    "require_limit",
    "require_metadata",
    "require_query",
    "require_scope",
    "require_score",
    "require_sort",
    "require_text",
    "require_tokens",
    "selected",
]

Infer: TypeAlias = Literal["background", "now", False]
_MOST = 1_000
_KINDS = get_args(Kind)


def as_time(value: datetime | str | float | None) -> datetime | None:
    """Read a time: a datetime, an ISO 8601 text, or seconds since 1970. Without a zone it is taken as UTC.

    Raises:
        ConfigError: it is none of these.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise _no_time(value)
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise _no_time(value) from exc
    if not isinstance(value, datetime):
        raise _no_time(value)
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        aware.astimezone(UTC)
    except OverflowError as exc:
        raise ConfigError(f"{value} is out of range: times are from year 1 to 9999") from exc
    return aware


def require_end(expires_at: datetime | str | float | None, *, said: datetime, now: datetime) -> datetime | None:
    """Read from when on what was `said` is not found any more.

    What is imported may have expired since it was said; anything else that has expired by `now` is a mistake.

    Raises:
        ConfigError: it is no time, or had passed already.
    """
    end = as_time(expires_at)
    if end is not None and end <= min(said, now):
        raise ConfigError(
            f"expires_at is {end.isoformat()}, which has passed: now is {now.isoformat(timespec='seconds')}. "
            "Give a later time; for what was said before that time and is imported, also its timestamp"
        )
    return end


def _no_time(value: object) -> ConfigError:
    return ConfigError(f"{value!r:.80} is not a time: give ISO 8601, such as 2026-05-01T18:30:00Z")


def selected(
    scope: Scope,
    *,
    kinds: object = _KINDS,
    filters: Mapping[str, Any] | None = None,
    as_of: datetime | str | float | None = None,
    everything: bool = False,
) -> Selection:
    """Make the selection that a caller means.

    Raises:
        ConfigError: the kinds are not "turn" and "fact", a filter is wrong, or `as_of` is no time.
    """
    return Selection(
        scope=scope,
        kinds=tuple(_require_kinds(kinds)),
        where=None if filters is None else parse_filters(filters),
        as_of=as_time(as_of),
        everything=everything,
    )


def _require_kinds(kinds: Any) -> Sequence[Kind]:
    if not isinstance(kinds, list | tuple) or not kinds or any(kind not in _KINDS for kind in kinds):
        raise ConfigError(f"kinds is a list of {_KINDS}, got {kinds!r}")
    return kinds


def require_scope(user_id: str | None, agent_id: str | None, run_id: str | None) -> Scope:
    """Make a scope of which at least one id is set.

    Raises:
        ConfigError: none is, or one is blank.
    """
    scope = Scope(user_id, agent_id, run_id)
    if not scope:
        raise ConfigError("say whose memory it is: user_id=, agent_id= or run_id=")
    for name in Scope.__struct_fields__:
        value: object = getattr(scope, name)
        if value is not None and not (isinstance(value, str) and value.strip() and clean(value) == value):
            raise ConfigError(f"{name} is a text that is not blank and has no lone surrogates, got {value!r}")
    return scope


def require_query(query: object) -> str:
    """Check what is looked for.

    Raises:
        ConfigError: it is blank, or no text.
    """
    if not isinstance(query, str) or not query.strip():
        raise ConfigError(f"the query is a text that says what to look for, got {query!r}")
    return clean(query)


def require_limit(limit: object) -> int:
    """Check how many are wanted.

    Raises:
        ConfigError: it is out of range.
    """
    return require_count("limit", limit, _MOST)


def require_count(name: str, value: object, most: int) -> int:
    """Check a number of things.

    Raises:
        ConfigError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{name} is from 1 to {most}, got {value!r}")
    return value


def require_score(min_score: object) -> float:
    """Check the least score that is wanted, 0 for any.

    Raises:
        ConfigError: it is out of range.
    """
    if min_score is None:
        return 0.0
    if isinstance(min_score, bool) or not isinstance(min_score, int | float) or not 0 <= min_score <= 1:
        raise ConfigError(f"min_score is from 0 to 1, got {min_score!r}")
    return float(min_score)


def require_tokens(max_tokens: object) -> int:
    """Check a budget.

    Raises:
        ConfigError: it is not a number from 1 on.
    """
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise ConfigError(f"max_tokens is at least 1, got {max_tokens!r}")
    return max_tokens


def require_text(name: str, value: object) -> str | None:
    """Check a text that may be left out.

    Raises:
        ConfigError: it is blank, or no text.
    """
    if not isinstance(value, str | None) or (value is not None and not value.strip()):
        raise ConfigError(f"{name} is a text that is not blank, got {value!r:.80}")
    return None if value is None else clean(value)


def require_infer(infer: object) -> None:
    """Check when facts are to be extracted.

    Raises:
        ConfigError: it is none of the three.
    """
    if infer not in get_args(Infer) or isinstance(infer, int) is not (infer is False):
        raise ConfigError(f"infer is one of {get_args(Infer)}, got {infer!r}")


def require_metadata(metadata: object) -> dict[str, Any]:
    """Check what is stored beside a text.

    Raises:
        ConfigError: it is no dict.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise ConfigError(f"metadata is a dict, got {metadata!r:.80}")
    return metadata


def require_sort(sort: Sort) -> Sort:
    """Check an order.

    Raises:
        ConfigError: there is no such order.
    """
    if sort not in get_args(Sort):
        raise ConfigError(f"sort is one of {get_args(Sort)}, got {sort!r}")
    return sort
