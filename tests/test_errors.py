"""The error tree as a whole: what holds for every class of it."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from ollama_async_mem import errors

SAMPLES = {"str": "text", "int": 503, "float": 1.5, "float | None": 1.5, "tuple[int, ...]": (3, 7)}


def made(class_: Any) -> Any:
    """An error of a class, with every argument given."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for parameter in list(inspect.signature(class_.__init__).parameters.values())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = SAMPLES[parameter.annotation]
        elif parameter.kind is not parameter.VAR_KEYWORD:
            positional.append(SAMPLES.get(parameter.annotation, "text"))
    return class_(*positional, **named)


@pytest.mark.parametrize("name", errors.__all__)
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL, None])
def test_every_error_can_be_sent_to_another_process(name: str, protocol: int | None) -> None:
    """What a pool of processes gets back, and a copy, is of the same class, with the same text and attributes."""
    error = made(getattr(errors, name))
    error.add_note("a note")
    again = copy.copy(error) if protocol is None else pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
