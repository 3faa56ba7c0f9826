"""The command line in a terminal: what Ctrl-C and Ctrl-D do."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from fakes import ScriptedOllama

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "ollama_async_mem", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", **environment},
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C where the terminal turns it into a signal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def expect(self, text: str, timeout_s: float = 20) -> None:
        """Wait until the program has written a text."""
        end = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self._master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come, but: {self.seen!r}"
            self.seen += os.read(self._master, 65536).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def exit_status(self, timeout_s: float = 10) -> int:
        """Wait for the end."""
        status = self.process.wait(timeout_s)
        os.close(self._master)
        return status


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[ScriptedOllama, dict[str, str]]]:
    """An Ollama that answers a word every 0.1 s, and the environment that names it."""
    with ScriptedOllama() as server:
        server.settings.token_interval_s = 0.1
        yield server, {"OLLAMA_HOST": server.url, "OLLAMA_ASYNC_MEM_STORE": str(tmp_path / "m.db")}


def test_ctrl_c_stops_the_answer_and_not_the_program(slow: tuple[ScriptedOllama, dict[str, str]]) -> None:
    """In a chat, Ctrl-C ends an answer, which is not remembered; Ctrl-D ends the program."""
    server, environment = slow
    terminal = Terminal("chat", environment=environment)
    terminal.expect(">")
    terminal.type("one two three four five six seven eight nine ten\r")
    terminal.expect("You said: one")
    terminal.interrupt()
    terminal.expect("not remembered")
    server.settings.token_interval_s = 0
    terminal.type("hello\r")
    terminal.expect("You said: hello")
    terminal.expect(">")
    terminal.type("\x04")
    assert terminal.exit_status() == 0
    last = server.requests_to("POST /api/chat")
    assert all("one two" not in str(request.json["messages"]) for request in last[1:])


def test_ctrl_c_ends_a_wait_for_standard_input(slow: tuple[ScriptedOllama, dict[str, str]]) -> None:
    """A command that reads the terminal is left by Ctrl-C, with 130 and without a traceback."""
    terminal = Terminal("add", environment=slow[1])
    time.sleep(1.5)
    terminal.interrupt()
    assert terminal.exit_status() == 130


def test_ctrl_c_ends_a_chat_that_reads_a_silent_pipe(slow: tuple[ScriptedOllama, dict[str, str]]) -> None:
    """The same where standard input is a pipe that says nothing."""
    command = [sys.executable, "-m", "ollama_async_mem", "chat"]
    environment = {**os.environ, **slow[1]}
    with subprocess.Popen(  # noqa: S603
        command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        assert "memories of" in process.stderr.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert "Traceback" not in process.stderr.read()
