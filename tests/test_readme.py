"""The README is the manual: its Python runs, its command lines parse, and it names every command."""

from __future__ import annotations

import os
import re
import shlex
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from fakes import ScriptedOllama

from ollama_async_mem.cli.main import build

PROXY = "https://llm.example.org/ollama"
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def answer(body: dict[str, Any]) -> str:
    """A person where a format is asked for, else text."""
    return '{"name": "Ann", "age": 31}' if body.get("format") else "Try some olives."


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the example behind a reverse proxy."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    client, server = authority.issue_cert("client"), authority.issue_cert("127.0.0.1")
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    client.private_key_pem.write_to_path(str(folder / "client.key"))
    server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return folder


def proxy_context(folder: Path) -> ssl.SSLContext:
    """TLS as that of a reverse proxy that wants a certificate of its clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: f"{len(code)} characters")
def test_the_examples_run(code: str, tmp_path: Path, certificates: Path) -> None:
    """Each Python block is a program that ends well on a server."""
    is_behind_proxy = PROXY in code
    with ScriptedOllama(tls=proxy_context(certificates) if is_behind_proxy else None) as server:
        server.settings.answer = answer
        environment = {**os.environ, "OLLAMA_HOST": server.url, "OLLAMA_ASYNC_MEM_STORE": str(tmp_path / "m.db")}
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-W", "error", "-c", code.replace(PROXY, server.url)],
            env=environment,
            cwd=certificates,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert any(word in done.stdout for word in ("Ann", "olives", "1 memories exported"))
    assert not is_behind_proxy or server.requests[0].headers["authorization"] == "Bearer s3cret"


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
