"""How a memory works, as a settings file says it: the section `memory`. Knows names and ranges, not what they do."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec import Meta

from ollama_async_mem.config.checks import Place, allowed, check_values, checked, require_mapping, types_of, wrong_value
from ollama_async_mem.config.models import FINITE, LONGEST_S, Factor, Name, Size, Switch

__all__ = ["MemoryConfig", "WeightsConfig"]

Number: TypeAlias = Annotated[float, Meta(ge=-FINITE, le=FINITE, description="a number")]
Above: TypeAlias = Annotated[float, Meta(gt=0, le=FINITE, description="a number above 0")]
Wait: TypeAlias = Annotated[float, Meta(ge=0, le=LONGEST_S, description="a number of seconds from 0")]


class WeightsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the ranking is told: the names of `RankingWeights`, where None is its own default.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    listed: Factor | None = None
    dense: Factor | None = None
    dense_before: Factor | None = None
    words: Factor | None = None
    words_before: Factor | None = None
    words_after: Factor | None = None
    words_linked: Factor | None = None
    saturation: Factor | None = None
    speaker: Factor | None = None
    statement: Factor | None = None
    when: Factor | None = None
    dates: Factor | None = None
    recency: Factor | None = None
    half_life_days: Above | None = None
    neighbour_gap_s: Wait | None = None
    middle: Number | None = None
    slope: Above | None = None

    ALIASES: ClassVar[dict[str, str]] = {}
    INSTEAD: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        check_values(self)

    @property
    def given(self) -> dict[str, float]:
        """What is set."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


class MemoryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a memory works.

    Args:
        prompt: replaces the instructions to the model that extracts facts, all but the shape of the answer.
        idle_s: how long extraction waits for the end of a burst of adds.
        concurrency: for how many users the model is asked for facts at the same time.
        extract: whether this process works off the extraction queue, or leaves it to others on the store.
        same_within: within how many seconds the same words of the same speaker are stored once.
        weights: of the ranking.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    prompt: Name | None = None
    idle_s: Wait = 1.0
    concurrency: Size = 64
    extract: Switch = True
    same_within: Wait = 30.0
    weights: WeightsConfig = WeightsConfig()

    ALIASES: ClassVar[dict[str, str]] = {"extract_here": "extract", "same_within_s": "same_within"}
    INSTEAD: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        check_values(self)

    @classmethod
    def flattened(cls, mapping: object, place: Place) -> dict[str, Any]:
        """Check what stands at a place; returns it with dotted names, such as "weights.recency".

        Raises:
            ConfigError: a key is unknown or a value cannot be; the text begins with the place.
        """
        given = require_mapping(mapping, f"{place.file}{place.path.removesuffix('.')}")
        own = checked(cls, {key: value for key, value in given.items() if key != "weights"}, place)
        weights = given.get("weights")
        return own | ({} if weights is None else _weights(weights, place.inside("weights")))

    @classmethod
    def of_variable(cls, variable: str, name: str, text: str) -> dict[str, Any]:
        """Read one setting from the text of a variable; weights are a JSON object. Returns what `flattened` does.

        Raises:
            ConfigError: the text is nothing that the setting can be; it begins with the variable.
        """
        if name == "weights":
            return _weights(_object(variable, text), Place(f"{variable}: "))
        type_ = types_of(cls)[name]
        try:
            return {name: msgspec.convert(text, type_, strict=False)}
        except msgspec.ValidationError as exc:
            raise wrong_value(variable, text, allowed(type_)) from exc


def _weights(mapping: object, place: Place) -> dict[str, Any]:
    return {f"weights.{name}": value for name, value in checked(WeightsConfig, mapping, place).items()}


def _object(variable: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        raise wrong_value(variable, text, 'a JSON object, such as {"recency": 0.5}') from exc
