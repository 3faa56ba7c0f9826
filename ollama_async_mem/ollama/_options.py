"""Model parameters, checked before they are sent: the server answers 500 to a wrong type, as if it had failed.

Names and types are those of Ollama's `Options` (ollama: api/types.go). What is not known here is sent as it is, and
warned of once: the server ignores what it does not know itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from ollama_async_mem.errors import ConfigError

__all__ = ["checked_options", "nearest"]

_LOGGER = logging.getLogger(__name__)

_AT_LEAST: Final[dict[str, int]] = {  # integers and the least that means anything
    "draft_num_predict": 0,
    "main_gpu": 0,
    "num_batch": 1,
    "num_ctx": 1,
    "num_gpu": -1,
    "num_keep": -1,
    "num_predict": -2,
    "num_thread": 0,
    "repeat_last_n": -1,
    "seed": -(2**53),
    "top_k": 0,
}
_WITHIN: Final[dict[str, tuple[float, float]]] = {  # numbers
    "frequency_penalty": (-math.inf, math.inf),
    "min_p": (0, 1),
    "presence_penalty": (-math.inf, math.inf),
    "repeat_penalty": (0, math.inf),
    "temperature": (0, math.inf),
    "top_p": (0, 1),
    "typical_p": (0, 1),
}
_KNOWN: Final = {*_AT_LEAST, *_WITHIN, "stop", "use_mmap"}
_MOST: Final = 2**53
_LARGEST: Final = 1e300  # a JSON number that is still finite as Go reads it


def checked_options(options: object) -> dict[str, Any] | None:
    """Write `options` as the server takes them: without those that are None, and `stop` as a list.

    Raises:
        ConfigError: one is of a wrong type or out of range.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise ConfigError(f'options is a mapping such as {{"temperature": 0}}, got {options!r:.200}')
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if fault := _fault(name, value):
            raise ConfigError(f"the option {name} is {fault}, got {value!r:.80}")
        if name not in _KNOWN:
            _warn_of(str(name))
    stop = given.get("stop")
    return {**given, "stop": [stop]} if isinstance(stop, str) else given


@lru_cache(maxsize=256)  # so each is told once
def _warn_of(name: str) -> None:
    _LOGGER.warning("the option %r is sent, but Ollama may not know it%s", name, nearest(name, _KNOWN))


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name may have been meant, as in ", did you mean 'seed'?"; "" where none is near."""
    import difflib  # noqa: PLC0415 - only to word what is wrong

    near = difflib.get_close_matches(name, sorted(known), 1)
    return f", did you mean {near[0]!r}?" if near else ""


def _fault(name: object, value: Any) -> str:
    """What the option is, where the value is not that; "" where it is, or nothing is known about it."""
    if name in _AT_LEAST:
        least = _AT_LEAST[str(name)]
        is_fit = isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MOST
        return "" if is_fit else f"an integer of at least {least}"
    if name in _WITHIN:
        low, high = _WITHIN[str(name)]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
        return "" if is_number and low <= value <= high else f"a number{_range(low, high)}"
    if name == "use_mmap":
        return "" if isinstance(value, bool) else "true or false"
    if name == "stop":
        is_texts = isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
        return "" if isinstance(value, str) or is_texts else "a text or a list of texts"
    return ""


def _range(low: float, high: float) -> str:
    if high < math.inf:
        return f" from {low:g} to {high:g}"
    return f" from {low:g}" if low > -math.inf else ""
