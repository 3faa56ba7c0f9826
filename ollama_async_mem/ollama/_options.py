"""Model parameters, checked before they are sent: the server answers 500 to a wrong type, as if it had failed. Pure.

Names and types are those of Ollama's `Options` (ollama: api/types.go). What is not known here is sent as it is: the
server ignores what it does not know itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from ollama_async_mem.errors import ConfigError

__all__ = ["checked_options"]

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
_MOST: Final = 2**53


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
    stop = given.get("stop")
    return {**given, "stop": [stop]} if isinstance(stop, str) else given


def _fault(name: object, value: Any) -> str:
    """What the option is, where the value is not that; "" where it is, or nothing is known about it."""
    if name in _AT_LEAST:
        least = _AT_LEAST[str(name)]
        is_fit = isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MOST
        return "" if is_fit else f"an integer of at least {least}"
    if name in _WITHIN:
        low, high = _WITHIN[str(name)]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
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
