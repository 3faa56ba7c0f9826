"""What a benchmark is made of and what running it yields; no measuring here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

SEED = 20260102
CONTENDERS = Path(__file__).parent / "contenders"

Figures: TypeAlias = dict[str, float]
Bars: TypeAlias = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Contender:
    """One program to measure.

    `program` is run as `python FILE CASE` with the case as JSON, seed and server URL in it; the last line that it
    prints is a JSON object of figures (`benchmarks.footprint.report` prints it). A status other than 0 is a failure.
    """

    name: str
    program: Path
    packages: tuple[str, ...] = ()
    """Distributions that it needs; their versions are printed."""
    install: str = "pip install '.[bench]'"
    case: Mapping[str, Any] = field(default_factory=dict)
    """Entries of the case that are this contender's own, such as a variant."""
    prepare: Path | None = None
    """A program that runs once before all rounds, with the same case; its figures are among those of each run."""


@dataclass(slots=True)
class Row:
    """The runs of one contender, or why there are none; there are none either where nobody asked for it."""

    contender: Contender
    runs: list[Figures] = field(default_factory=list)
    failure: str = ""
    prepared: Figures = field(default_factory=dict)

    def median(self, figure: str) -> float | None:
        """The median over all runs; `None` where a run failed, or there was none."""
        return None if self.failure or not self.runs else median(run[figure] for run in self.runs)

    def low(self, figure: str) -> float | None:
        """The smallest over all runs, the one that the machine disturbed least."""
        return None if self.failure or not self.runs else min(run[figure] for run in self.runs)

    @property
    def was_asked(self) -> bool:
        """Whether anybody wanted its figures."""
        return bool(self.runs or self.failure)

    @property
    def figures(self) -> list[str]:
        """The names of the figures."""
        return list(self.runs[0]) if self.runs else []


Rows: TypeAlias = Mapping[str, Row]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A question, who answers it, and how the answers become the figures in `bars`."""

    name: str
    about: str
    contenders: tuple[Contender, ...]
    bars: Callable[[Rows], Bars]
    case: Mapping[str, Any] = field(default_factory=dict)
    quick_case: Mapping[str, Any] = field(default_factory=dict)
    """Replaces entries of `case` in a quick run."""
    repeats: int = 9
    quick_repeats: int = 3
    warmups: int = 0
    server_script: str = ""
    """`module:function` that is given the scripted Ollama and the case, in a process of its own."""
    place: Callable[[Sequence[Contender]], AbstractContextManager[Mapping[str, Any]]] = lambda _: nullcontext({})
    """Makes what these contenders need while they run, and gives entries of the case that say where it is."""
    timeout_s: float = 300.0


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """A quotient, or `None` where a side is missing or the denominator is not positive."""
    if numerator is None or denominator is None or denominator <= 0:
        return None
    return numerator / denominator


def difference(value: float | None, less: float | None) -> float | None:
    """A difference, or `None` where a side is missing."""
    return None if value is None or less is None else value - less
