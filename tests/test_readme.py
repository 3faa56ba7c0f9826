"""The README is the manual: its Python runs, its command lines parse, and it names every command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedOllama

from ollama_async_mem.cli.main import build

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def answer(body: dict[str, Any]) -> str:
    """A person where a format is asked for, else text."""
    return '{"name": "Ann", "age": 31}' if body.get("format") else "Try some olives."


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: f"{len(code)} characters")
def test_the_examples_run(code: str, tmp_path: Path) -> None:
    """Each Python block is a program that ends well on a server."""
    with ScriptedOllama() as server:
        server.settings.answer = answer
        environment = {**os.environ, "OLLAMA_HOST": server.url, "OLLAMA_ASYNC_MEM_STORE": str(tmp_path / "m.db")}
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-W", "error", "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "Ann" in done.stdout or "olives" in done.stdout


def command_lines() -> list[str]:
    """The command lines that the README shows."""
    lines = [line.split("  #")[0] for block in blocks("sh") for line in block.splitlines()]
    return [part.strip() for line in lines for part in re.split(r"\||&&", line) if "ollama-async-mem " in part]


@pytest.mark.parametrize("line", [line for line in command_lines() if not line.startswith("pip")])
def test_the_command_lines_parse(line: str) -> None:
    """Each command line is one that the program accepts."""
    command, bound, _ = build().parse_args(shlex.split(line)[1:], exit_on_error=False)
    assert callable(command)
    assert bound is not None


def test_every_command_is_in_the_readme() -> None:
    """A command that is not in the manual does not exist for its reader."""
    app = build()
    names = {name for name in app if not name.startswith("-")}
    assert names
    for name in names:
        assert f"ollama-async-mem {name}" in README, name


def test_the_two_set_up_commands_are_there() -> None:
    """Both commands that a newcomer types stand in a code block of their own."""
    lines = {line for block in blocks("sh") for line in block.splitlines()}
    assert "pip install '.[all]' && ollama-async-mem demo" in lines
    assert "pip install '.[all,test]' && pytest" in lines
