"""Durations and times as Go writes and reads them: `keep_alive` in, `created_at` and `expires_at` out."""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime

__all__ = ["FOREVER", "keep_alive_seconds", "rfc3339", "rfc3339_at"]

FOREVER = math.inf
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")
_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)[^\d.]*)+")
_LATEST = datetime(2318, 1, 1, tzinfo=UTC)  # what Ollama shows for "never": now plus the longest Go duration


def keep_alive_seconds(value: object) -> float | None:
    """Seconds to keep a model loaded: a number means seconds, a text is a Go duration, negative is for ever.

    None means that the caller said nothing. Raises ValueError with Go's text for anything else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"Unsupported type: {type(value).__name__}")  # noqa: TRY004  one kind for the caller
    seconds = _go_duration(value) if isinstance(value, str) else float(value)
    return FOREVER if seconds < 0 else seconds


def rfc3339(time_ns: int | None = None) -> str:
    """UTC with up to nine fractional digits, trailing zeros trimmed, as Go's RFC3339Nano."""
    seconds, fraction = divmod(time.time_ns() if time_ns is None else time_ns, 1_000_000_000)
    digits = f".{fraction:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{digits}Z"


def rfc3339_at(epoch_s: float) -> str:
    """The same for a moment given in seconds since the epoch; infinity is Ollama's far future."""
    if epoch_s >= _LATEST.timestamp():
        return _LATEST.isoformat().replace("+00:00", "Z")
    return rfc3339(int(epoch_s * 1_000_000_000))


def _go_duration(text: str) -> float:
    """Go's time.ParseDuration, in seconds."""
    if text in {"0", "+0", "-0"}:
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError(f'time: invalid duration "{text}"')
    total = sum(_term(number, unit, text) for number, unit in _TERM.findall(text))
    return -total if text.startswith("-") else total


def _term(number: str, unit: str, text: str) -> float:
    """One number with its unit."""
    if not unit:
        raise ValueError(f'time: missing unit in duration "{text}"')
    if unit not in _UNITS:
        raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
    return float(number) * _UNITS[unit]
