"""What `doctor` says of one thing that it has looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

__all__ = ["Finding", "Tell"]


class Finding(msgspec.Struct, frozen=True):
    """What was looked at, how it stands, and what to do where that is not well."""

    what: str
    status: Literal["ok", "warning", "error"]
    message: str
    advice: str = ""


Tell: TypeAlias = Callable[[Finding], None]
