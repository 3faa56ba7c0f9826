"""Who is compared in every benchmark: this package, the official client and the least that could do the work."""

from __future__ import annotations

from typing import Any

from .records import CONTENDERS, Contender

_FROM_SOURCE = "pip install ."
_OURS = ("httpx", "anyio", "msgspec", "tenacity", "numpy")


def lineup(benchmark: str, label: str = "", **case: Any) -> tuple[Contender, ...]:
    """The three contenders of a benchmark; a label is put behind their names, `case` is theirs alone."""
    suffix = f" {label}" if label else ""
    programs = {name: CONTENDERS / f"{benchmark}_{name}.py" for name in ("ours", "official", "floor")}
    return (
        Contender(f"ours{suffix}", programs["ours"], _OURS, _FROM_SOURCE, case),
        Contender(f"official{suffix}", programs["official"], ("ollama", "pydantic"), case=case),
        Contender(f"floor{suffix}", programs["floor"], ("msgspec",), _FROM_SOURCE, case),
    )
