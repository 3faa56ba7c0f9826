"""Runs a benchmark: every contender in turn, in reversed order each round, one fresh process for each run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .process import ContenderFailed, measure, scripted_server
from .records import SEED, Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .records import Benchmark, Contender, Rows


def run(benchmark: Benchmark, *, quick: bool = False) -> Rows:
    """Measure all contenders; one that is missing or fails keeps its row, with the reason."""
    case = {**benchmark.case, **(benchmark.quick_case if quick else {}), "seed": SEED}
    rows = [Row(contender, failure=missing(contender)) for contender in benchmark.contenders]
    try:
        with scripted_server(benchmark.server_script, case) as url:
            _run_rounds(benchmark, rows, {**case, "url": url}, quick=quick)
    except ContenderFailed as exc:  # the server: nobody has figures
        for row in rows:
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
    repeats = benchmark.quick_repeats if quick else benchmark.repeats
    for number in range(-benchmark.warmups, repeats):
        for row in rows[:: -1 if number % 2 else 1]:
            _run_once(row, case, benchmark.timeout_s, counts=number >= 0)


def _run_once(row: Row, case: Mapping[str, Any], timeout_s: float, *, counts: bool) -> None:
    if row.failure:
        return
    try:
        figures = measure(row.contender.program, {**case, **row.contender.case}, timeout_s)
    except ContenderFailed as exc:
        row.failure = str(exc)
    else:
        row.runs += [figures] if counts else []
