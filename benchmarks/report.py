"""A run as one JSON object, and that object as text for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .machine import machine, versions
from .records import SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .records import Benchmark, Row, Rows

Report = dict[str, Any]


def as_report(benchmark: Benchmark, rows: Rows, *, quick: bool) -> Report:
    """Everything that is printed: machine, versions, a row for each contender that was asked, and the flat `bars`."""
    return {
        "name": benchmark.name,
        "about": benchmark.about,
        "quick": quick,
        "seed": SEED,
        "machine": machine(),
        "versions": versions(benchmark),
        "contenders": [_as_entry(row) for row in rows.values() if row.was_asked],
        "bars": {name: _rounded(value) for name, value in benchmark.bars(rows).items()},
    }


def failed(report: Report) -> bool:
    """Whether a contender has no figures."""
    return any(entry["failure"] for entry in report["contenders"])


def as_text(report: Report) -> str:
    """The report as aligned tables, failures last."""
    host = report["machine"]
    known = ", ".join(f"{name} {number or 'missing'}" for name, number in report["versions"].items())
    blocks = [
        f"{report['name']}: {report['about']}",
        f"{host['python']} on {host['os']}, {host['cpu']}, {host['cores']} cores, load {host['load_1m']}\n{known}",
        *_contender_tables(report["contenders"]),
        _aligned([(name, _shown(value)) for name, value in report["bars"].items()]),
        *(f"FAILED {entry['name']}: {entry['failure']}" for entry in report["contenders"] if entry["failure"]),
    ]
    return "\n\n".join(block for block in blocks if block)


def _as_entry(row: Row) -> Report:
    return {
        "name": row.contender.name,
        "failure": row.failure or None,
        "runs": len(row.runs),
        "median": {name: _rounded(row.median(name)) for name in row.figures},
        "min": {name: _rounded(row.low(name)) for name in row.figures},
    }


def _contender_tables(entries: Sequence[Report]) -> list[str]:
    """A table for the contenders that have the same figures, those without any in the last."""
    groups: dict[tuple[str, ...], list[Report]] = {}
    for entry in sorted(entries, key=lambda entry: not entry["median"]):
        groups.setdefault(tuple(entry["median"]), []).append(entry)
    return [_contender_table(figures, group) for figures, group in groups.items()]


def _contender_table(figures: Sequence[str], entries: Sequence[Report]) -> str:
    header = ("median (min)", "runs", *figures)
    return _aligned([header, *((e["name"], str(e["runs"]), *(_cell(e, f) for f in figures)) for e in entries)])


def _cell(entry: Report, figure: str) -> str:
    middle, low = entry["median"].get(figure), entry["min"].get(figure)
    return _shown(middle) if middle == low else f"{_shown(middle)} ({_shown(low)})"


def _aligned(table: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"  # noqa: PLR2004


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
