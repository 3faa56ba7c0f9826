"""What a scripted server can be told to say: the records a test composes its answers of.

Knows nothing of sockets, of the bytes on the wire or of Ollama's endpoints.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(slots=True)
class Request:
    """One request as the server read it; `completed` turns true when its whole answer was sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    connection: int = 0
    completed: bool = False

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def route(self) -> str:
        """The key that answers are enqueued under, such as `POST /api/chat`."""
        return f"{self.method} {self.path}"

    @property
    def json(self) -> Any:
        """The body parsed as JSON; `None` where there is no body."""
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for a while."""

    seconds: float


class Hold:
    """Send nothing until the test calls `release`."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def release(self) -> None:
        """Let the answer go on; may be called from any thread."""
        self._event.set()

    @property
    def released(self) -> bool:
        """Whether the answer may go on."""
        return self._event.is_set()


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection in good order (FIN), after what was written."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection (RST), dropping what is not sent yet."""


@dataclass(frozen=True, slots=True)
class Coalesce:
    """Let the kernel hold small writes back until earlier ones are acknowledged: TCP_NODELAY is off from here on."""


STALL = Pause(3600.0)
"""Say nothing more; ends when the client hangs up."""

Step: TypeAlias = bytes | Pause | Hold | Close | Reset | Coalesce


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a Content-Length: `json`, or `body` as it is."""

    status: int = 200
    json: Any = None
    body: bytes | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stream:
    """An NDJSON answer, one HTTP chunk for each line, as Go's server sends it; `bytes` go out as they are."""

    lines: Iterable[Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    interval_s: float = 0.0
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes and faults exactly as listed; a callable gives fresh steps, also endless ones.

    The connection stays open behind the last step: finish with `Close` or `Reset` to end it.
    """

    steps: Sequence[Step] | Callable[[], Iterable[Step]]

    def replay(self) -> Iterable[Step]:
        """The steps, from the beginning."""
        return self.steps() if callable(self.steps) else self.steps


FixedAnswer: TypeAlias = Reply | Stream | Raw
Answer: TypeAlias = FixedAnswer | Callable[[Request], FixedAnswer]


def ndjson(*lines: Any, interval_s: float = 0.0, delay_s: float = 0.0) -> Stream:
    """An NDJSON stream of these objects (or raw `bytes` lines), `interval_s` between two of them."""
    return Stream(lines, interval_s=interval_s, delay_s=delay_s)
