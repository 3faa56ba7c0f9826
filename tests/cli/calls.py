"""How the tests run commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ollama_async_mem.cli.main import run

if TYPE_CHECKING:
    import pytest


def ran(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """Run a command with --json and return what it printed."""
    assert run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command as people do; returns what it wrote to standard output and to standard error."""
    assert run(list(arguments)) == code
    out, err = capsys.readouterr()
    return out, err
