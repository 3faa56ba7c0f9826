"""Many adds at once, for imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.memory.tasks import together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ollama_async_mem.records import AddResult

__all__ = ["add_all"]

_AT_ONCE = 128
"""Enough that embedding requests and transactions are full."""


async def add_all(
    add: Callable[..., Awaitable[AddResult]],
    additions: Iterable[Mapping[str, Any]],
    on_progress: Callable[[int, int], object] | None,
) -> list[AddResult]:
    """Call `add` with each mapping of arguments, many at a time; returns the results in order.

    Raises:
        ConfigError: an addition is wrong; the message says which.
    """
    todo = list(additions)
    waiting = iter(enumerate(todo))
    results: dict[int, AddResult] = {}

    async def work() -> None:
        for position, addition in waiting:
            results[position] = await _added(add, addition, position)
            if on_progress:
                on_progress(len(results), len(todo))

    await together(*[work] * min(_AT_ONCE, len(todo)))
    return [results[position] for position in range(len(todo))]


async def _added(add: Callable[..., Awaitable[AddResult]], addition: Mapping[str, Any], position: int) -> AddResult:
    if not isinstance(addition, Mapping):
        raise ConfigError(f"addition {position + 1} is a {type(addition).__name__}; give a mapping of what `add` takes")
    try:
        return await add(**addition)
    except (ConfigError, TypeError) as exc:
        raise ConfigError(f"addition {position + 1}: {exc}") from exc
