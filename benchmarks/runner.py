"""Runs a benchmark: every contender in turn, in reversed order each round, one fresh process for each run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .process import ContenderFailed, measure, scripted_server
from .records import SEED, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .records import Benchmark, Contender, Figures, Rows


def run(
    benchmark: Benchmark,
    *,
    quick: bool = False,
    only: Sequence[str] = (),
    given: Mapping[str, Any] = MappingProxyType({}),
) -> Rows:
    """Measure all contenders, or those with one of these texts in their names; who has no figures keeps its row.

    One that is missing or fails has the reason in it. `given` are entries of the case that the caller knows.
    """
    case = {**benchmark.case, **(benchmark.quick_case if quick else {}), "seed": SEED, **given}
    rows = [Row(contender) for contender in benchmark.contenders]
    asked = [row for row in rows if not only or any(text in row.contender.name for text in only)]
    for row in asked:
        row.failure = missing(row.contender)
    able = [row.contender for row in asked if not row.failure]
    try:
        with scripted_server(benchmark.server_script, case) as url, benchmark.place(able) as found:
            _run_rounds(benchmark, asked, {**case, "url": url, **found}, quick=quick)
    except ContenderFailed as exc:  # what all need: nobody has figures
        for row in asked:
            row.failure = row.failure or str(exc)
    return {row.contender.name: row for row in rows}


def missing(contender: Contender) -> str:
    """What a contender lacks and how to get it, or an empty text."""
    lacking = [package for package in contender.packages if not installed_version(package)]
    return f"{', '.join(lacking)} is not installed; get it with: {contender.install}" if lacking else ""


def installed_version(package: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _run_rounds(benchmark: Benchmark, rows: list[Row], case: Mapping[str, Any], *, quick: bool) -> None:
    for row in rows:
        row.prepared = _measured(row, row.contender.prepare, case, benchmark.timeout_s) or {}
    repeats = benchmark.quick_repeats if quick else benchmark.repeats
    for number in range(-benchmark.warmups, repeats):
        for row in rows[:: -1 if number % 2 else 1]:
            figures = _measured(row, row.contender.program, case, benchmark.timeout_s)
            row.runs += [{**row.prepared, **figures}] if figures and number >= 0 else []


def _measured(row: Row, program: Path | None, case: Mapping[str, Any], timeout_s: float) -> Figures | None:
    """The figures of a run; `None` where there is nothing to run, or the contender failed, now or before."""
    if row.failure or program is None:
        return None
    try:
        return measure(program, {**case, **row.contender.case}, timeout_s)
    except ContenderFailed as exc:
        row.failure = str(exc)
        return None
