"""The one direction of imports, held by parsing every module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ollama_async_mem"

# Who may import whom, besides modules of the same package: the layers of the design, lowest first.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "filters": {"errors"},
    "records": {"filters", "errors"},
    "events": {"records"},
    "counts": {"records"},
    "ports": {"records", "counts", "errors"},
    "steps": {"ports", "records"},
    "config": {"records", "errors"},
    "ollama": {"errors"},
    "connect": {"ollama", "config", "errors"},
    "llm": {"connect", "ollama", "config", "ports", "records", "errors"},
    "embedding": {"connect", "ollama", "config", "ports", "counts", "records", "errors"},
    "stores": {"config", "ports", "steps", "counts", "records", "filters", "errors"},
    "memory": {"ports", "steps", "events", "counts", "records", "filters", "errors"},
    "portable": {"memory", "stores", "ports", "records", "errors"},
    "app": {
        *(
            "portable",
            "memory",
            "llm",
            "embedding",
            "stores",
            "connect",
            "ollama",
            "config",
            "ports",
            "events",
            "counts",
            "records",
            "filters",
            "errors",
        )
    },
    "engine": {"ollama", "config", "errors"},
}
ALLOWED["server"] = {"app", *ALLOWED["app"] - {"portable", "stores", "embedding"}}
ALLOWED["cli"] = ALLOWED["app"] | {"app", "engine", "server"}
ALLOWED["__main__"] = {"cli", "errors"}
ALLOWED["__init__"] = set(ALLOWED)  # re-exports lazily, imports nothing when it is imported

MODULES = sorted(ROOT.rglob("*.py"))


def unit(relative: Path) -> str:
    """The entry of the table that a module belongs to."""
    return relative.parts[0].removesuffix(".py")


def imported_units(path: Path) -> set[str]:
    """The entries of the table that a module imports from, wherever in the module it does so."""
    package = path.relative_to(ROOT.parent).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = (*base, *(node.module or "").split("."))
            names = [base, *((*base, alias.name) for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        found |= {parts[1] for name in names if len(parts := [p for p in name if p]) > 1 and parts[0] == ROOT.name}
    return {f for f in found if f in ALLOWED}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_layers_below(path: Path) -> None:
    """A module imports from its own unit and from those the table allows."""
    own = unit(path.relative_to(ROOT))
    assert own in ALLOWED, f"{own} has no place in the table"
    assert imported_units(path) - {own} <= ALLOWED[own]


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    """The parser behind the check finds relative imports, also those inside functions."""
    assert imported_units(ROOT / "ports.py") == {"counts", "records"}
    assert imported_units(ROOT / "ollama" / "_ndjson.py") == {"ollama", "errors"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    """No module over 400 lines, no function over 60."""
    source = path.read_text()
    assert source.count("\n") <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or node.lineno) - node.lineno < 60, node.name
