"""Processes of their own: one measured run of a contender, and the scripted Ollama beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import IO, TYPE_CHECKING, Any

from .records import SEED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .records import Figures

ROOT = Path(__file__).parent.parent
TAIL_LINES = 8


class ContenderFailed(Exception):
    """A run gave no figures; says why."""


def measure(program: Path, case: Mapping[str, Any], timeout_s: float) -> Figures:
    """Run a program in a fresh process: its own figures and the CPU and wall time of the whole process.

    POSIX only, for `os.wait4`. Raises `ContenderFailed`.
    """
    command = [sys.executable, "-P", str(program), json.dumps(case)]
    with TemporaryFile() as out, TemporaryFile() as err:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment())
        status, usage = _wait(process, timeout_s)
        wall_s = time.perf_counter() - begin
        if status:
            raise ContenderFailed(_why(status, _text(err), wall_s, timeout_s))
        own = _figures(_text(out))
    return {"cpu_ms": (usage.ru_utime + usage.ru_stime) * 1e3, "wall_ms": wall_s * 1e3, **own}


def environment() -> dict[str, str]:
    """The variables a contender gets: ours, less what would change how Python or a client behaves."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "OLLAMA")) and not name.lower().endswith("_proxy")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(SEED)}


@contextmanager
def scripted_server(script: str, case: Mapping[str, Any]) -> Iterator[str]:
    """The URL of a scripted Ollama in another process; an empty text where no script is asked for."""
    if not script:
        yield ""
        return
    with served("scripted server", "fakes", "--script", script, "--argument", json.dumps(case)) as url:
        yield url


@contextmanager
def served(what: str, module: str, *arguments: str) -> Iterator[str]:
    """The URL that a module prints once it serves, in another process that has the tests' modules.

    Raises `ContenderFailed`.
    """
    command = [sys.executable, "-m", module, *arguments]
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**environment(), "PYTHONPATH": paths}
    ) as process:
        assert process.stdin is not None  # noqa: S101  # both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            line = process.stdout.readline()
            if not line:
                raise ContenderFailed(f"the {what} did not start")
            yield str(json.loads(line)["url"])
        finally:
            process.stdin.close()  # it leaves when its input ends


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[int, Any]:
    killer = Timer(timeout_s, process.kill)
    killer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        killer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, not by Popen
    return process.returncode, usage


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _why(status: int, errors: str, wall_s: float, timeout_s: float) -> str:
    if wall_s >= timeout_s:
        return f"no end after {timeout_s:g} s"
    return "\n".join([f"exit status {status}", *errors.strip().splitlines()[-TAIL_LINES:]])


def _figures(output: str) -> Figures:
    try:
        last = json.loads(output.strip().splitlines()[-1])
        return {name: float(value) for name, value in last.items()}
    except (IndexError, ValueError, AttributeError, TypeError) as exc:
        raise ContenderFailed(f"its last line is not an object of figures: {output[-200:]!r}") from exc
