"""When a request is tried again: before its first byte, for errors that say so, until a deadline."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

import anyio
import msgspec

from ollama_async_mem.errors import ConfigError, OllamaError, StatusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import tenacity

__all__ = ["RetryPolicy", "no_retry_waits", "tell_retries", "with_retry"]

T = TypeVar("T")

_SWITCHES: set[object] = set()
"""One for each `no_retry_waits` that is entered, in whichever thread."""
_LISTENER: ContextVar[Callable[[], object] | None] = ContextVar("listener", default=None)


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often and for how long a request is tried.

    `attempts` counts the first try; waits are random in 0..min(cap, base * 2^n) seconds (the "full jitter" of
    AWS's "Exponential Backoff And Jitter", 2015), or what the server asks for in Retry-After. No try begins later
    than `deadline_s` after the first: where the next one would, the error is raised at once.
    """

    attempts: int = 6
    base_s: float = 0.1
    cap_s: float = 2.0
    deadline_s: float = 15.0

    def __post_init__(self) -> None:
        attempts: object = self.attempts
        times: list[object] = [self.base_s, self.cap_s, self.deadline_s]
        are_times = all(isinstance(value, int | float) and value >= 0 for value in times)  # which NaN is not
        if not (isinstance(attempts, int) and attempts >= 1 and are_times):
            raise ConfigError(f"a retry policy needs attempts >= 1 and times >= 0 in seconds, got {self}")


@contextmanager
def no_retry_waits() -> Iterator[None]:
    """Have requests tried again without waiting, in tests.

    All else stays: what is tried again, how often, and the error in the end. It holds for all clients of the process,
    whichever event loop or thread they are in.
    """
    switch = object()
    _SWITCHES.add(switch)
    try:
        yield
    finally:
        _SWITCHES.discard(switch)


def tell_retries(listener: Callable[[], object]) -> None:
    """Have `listener` called whenever a request of this task is tried again."""
    _LISTENER.set(listener)


async def with_retry(policy: RetryPolicy, send: Callable[[], Awaitable[T]]) -> T:
    """Call `send` until it succeeds, raises what may not be retried, or the policy is used up."""
    began = time.monotonic()
    try:
        return await send()
    except OllamaError as exc:
        if not exc.retryable or policy.attempts == 1:
            raise
        failure = exc
    return await _again(policy, send, failure, until=began + policy.deadline_s)


async def _again(policy: RetryPolicy, send: Callable[[], Awaitable[T]], failure: OllamaError, *, until: float) -> T:
    """Go on after the first failure. Only here is tenacity needed, whose set-up costs more than a request."""
    import tenacity  # noqa: PLC0415 - as said

    failures = iter([failure])

    async def attempt() -> T:
        for exc in failures:  # the try that was made already counts as the first
            raise exc
        if (listener := _LISTENER.get()) is not None:
            listener()
        return await send()

    def is_over(state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= policy.attempts or time.monotonic() + state.upcoming_sleep > until

    retrying = tenacity.AsyncRetrying(
        sleep=anyio.sleep,
        retry=tenacity.retry_if_exception(_is_retryable),
        wait=_wait(policy),
        stop=is_over,
        reraise=True,
    )
    return await retrying(attempt)


def _is_retryable(exc: BaseException) -> bool:
    return isinstance(exc, OllamaError) and exc.retryable


def _wait(policy: RetryPolicy) -> Callable[[tenacity.RetryCallState], float]:
    import tenacity  # noqa: PLC0415 - as above

    jitter = tenacity.wait_random_exponential(multiplier=policy.base_s, max=policy.cap_s)

    def wait(state: tenacity.RetryCallState) -> float:
        if _SWITCHES:
            return 0.0
        exc = state.outcome.exception() if state.outcome else None
        asked_s = exc.retry_after_s if isinstance(exc, StatusError) else None
        return jitter(state) if asked_s is None else asked_s

    return wait
