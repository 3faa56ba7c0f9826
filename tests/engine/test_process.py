"""The engine as a process: started by a caller, ended with it, and clear about why it cannot start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn

from engine import engine_support as support
from ollama_async_mem.engine import serve
from ollama_async_mem.engine.process import running_engine
from ollama_async_mem.errors import ConfigError, MissingExtra, RequestTimeout
from ollama_async_mem.ollama.hosts import DEFAULT_PORT as CLIENT_PORT

if TYPE_CHECKING:
    from pathlib import Path


async def test_an_engine_runs_inside_the_block_and_not_after_it(tmp_path: Path) -> None:
    """It answers at its URL; when the block is left, also by an error, the process is gone."""
    pids: list[int] = []

    async def fail_inside() -> None:
        async with running_engine(models_dir=tmp_path) as engine, httpx.AsyncClient() as http:
            assert (await http.get(engine.url)).text == "Ollama is running"
            assert str(engine.pid) in repr(engine)
            pids.append(engine.pid)
            raise LookupError

    with pytest.raises(LookupError):
        await fail_inside()
    assert not await asyncio.to_thread(os.path.exists, f"/proc/{pids[0]}")


async def test_an_engine_is_ready_soon(tmp_path: Path) -> None:
    """Nothing heavy is imported before the first request."""
    started = time.perf_counter()
    async with running_engine(models_dir=tmp_path):
        took = time.perf_counter() - started
    assert took < 10  # 0.5 s on a free machine


async def test_cancelling_while_it_starts_leaves_no_process(tmp_path: Path) -> None:
    """The block may be cancelled at any moment."""
    for delay in (0.0, 0.05, 0.2):
        task = asyncio.create_task(_forever(tmp_path))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(support.eventually, lambda: not support.processes(str(tmp_path)))


async def _forever(models: Path) -> None:
    async with running_engine(models_dir=models):
        await asyncio.sleep(100)


async def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The error has the engine's own last words."""
    bad = tmp_path / "bad.gguf"
    await asyncio.to_thread(bad.write_text, "hello")
    with pytest.raises(ConfigError, match=r"exit status 2.*bad\.gguf is not a GGUF file"):
        async with running_engine(gguf=[bad]):
            pass


async def test_an_engine_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """The limit is an argument."""
    with pytest.raises(RequestTimeout, match="did not start within"):
        async with running_engine(models_dir=tmp_path, start_timeout_s=0.001):
            pass
    assert await asyncio.to_thread(support.eventually, lambda: not support.processes(str(tmp_path)))


async def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says how to install it, and others can ask before."""
    assert await asyncio.to_thread(serve.is_installed)
    monkeypatch.setattr(serve, "_PACKAGES", ("json", "no_such_package"))
    assert not await asyncio.to_thread(serve.is_installed)
    with pytest.raises(MissingExtra, match=r'pip install "ollama-async-mem\[engine\]"'):
        async with running_engine():
            pass


def test_the_engine_listens_where_clients_look() -> None:
    """All entry points have the port of Ollama."""
    assert serve.DEFAULT_PORT == CLIENT_PORT


def test_an_engine_that_does_not_end_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the parent is gone the server is asked first; the process exits after a few seconds anyway."""
    exits: list[int] = []
    server = uvicorn.Server(uvicorn.Config("none"))
    monkeypatch.setattr(serve, "_LAST_MOMENT_S", 0.01)
    monkeypatch.setattr(os, "_exit", exits.append)
    serve._end(server)
    assert server.should_exit
    assert exits == [0]


PARENT = """
import asyncio, httpx, sys
from pathlib import Path
from ollama_async_mem.engine.process import running_engine

async def main():
    async with running_engine(models_dir=Path(sys.argv[1])) as engine:
        async with httpx.AsyncClient(timeout=60) as http:
            await http.post(engine.url + "/api/chat", json={"model": "smollm2:135m"})
        print("ready", flush=True)
        await asyncio.sleep(100)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="looks in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_orphan_outlives_its_parent(model_file: Path, tmp_path: Path, how: signal.Signals) -> None:
    """However the parent ends, kill -9 included, the engine and its runner end too."""
    marked = tmp_path / "models"
    marked.symlink_to(model_file.parent)
    command = [sys.executable, "-c", PARENT, str(marked)]
    where = support.REPOSITORY
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=where) as parent:  # noqa: S603
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        assert len(support.processes(str(marked))) == 3
        parent.send_signal(how)
        parent.wait(20)
    assert support.eventually(lambda: not support.processes(str(marked)))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    command = [sys.executable, "-m", "ollama_async_mem.engine", *arguments]
    where = support.REPOSITORY
    return subprocess.run(command, capture_output=True, text=True, cwd=where, timeout=60, check=False)  # noqa: S603


def test_a_taken_port_is_one_line_and_exit_2() -> None:
    """No traceback, the port is named, and who may have it and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1 port {port}")
    assert "an Ollama may be running there already" in done.stderr
    assert "--port" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_remote_address_must_be_asked_for(host: str) -> None:
    """Binding beyond the loopback is refused without --allow-remote."""
    done = run("--host", host, "--port", "0")
    assert done.returncode == 2
    assert "--allow-remote" in done.stderr


def test_with_allow_remote_every_host_name_is_served() -> None:
    """The check of the Host header is for loopback servers."""
    with support.engine("--host", "0.0.0.0", "--allow-remote") as engine:
        url = engine.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(url, headers={"Host": "box.example"}).status_code == 200


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly(how: signal.Signals) -> None:
    """Ctrl-C is no traceback, also while an answer is streamed; the client is told why the answer ends."""
    with support.engine() as engine:
        body = {"model": support.MODEL, "prompt": "one two three one two three", "raw": True}
        with httpx.stream("POST", f"{engine.url}/api/generate", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            engine.process.send_signal(how)
            assert json.loads(list(lines)[-1]) == {"error": "the server is shutting down"}
            assert engine.process.wait(15) in {0, -how}
        assert engine.said() == ""


def test_a_wrong_queue_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """OLLAMA_MAX_QUEUE must be a positive number."""
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", "many")
    done = run("--port", "0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "OLLAMA_MAX_QUEUE" in done.stderr
