"""What drives a server from outside: the server in a process of its own, connections to it, and what it costs.

Runs in contenders only. The processor's time is read where Linux keeps it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .phases import CASE, URL, expect

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["USERS", "Client", "Served", "bare_relay", "fill", "queries", "served"]

EMBEDDER = "embed-0"
USERS = tuple(f"user-{number}" for number in range(CASE["users"]))
STORE = Path(CASE["folder"]) / f"memory-{CASE['users']}.db"
_READ_BYTES = 1 << 16
_PLACE = re.compile(r"(REST|Ollama with memory) at (http://[\w.:]+)")
_END = b"\r\n0\r\n\r\n"


class Served:
    """A server that runs: where REST and the proxy are, and what it has used."""

    def __init__(self, pid: int, urls: dict[str, str], started_s: float) -> None:
        self.pid = pid
        self.rest, self.proxy = urls["REST"], urls["Ollama with memory"]
        self.started_s = started_s

    def cpu_s(self) -> float:
        """The processor's time of all its threads."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text().split()[0]) for file in threads) / 1e9

    def rss_mb(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


@contextmanager
def served(llm: str = "single:1") -> Iterator[Served]:
    """`ollama-async-mem serve` on free ports, on the store that `fill` has made; no facts are extracted."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.json"
        settings.write_text(json.dumps({"memory": {"extract": False}}), encoding="utf-8")
        options = {"port": 0, "proxy-port": 0, "store": STORE, "ollama": URL, "llm": llm, "embedder": EMBEDDER}
        options |= {"keys": Path(folder) / "keys.json", "audit-log": Path(folder) / "audit.log"}
        command = [sys.executable, "-m", "ollama_async_mem", "serve", *(f"--{k}={v}" for k, v in options.items())]
        environment = {**os.environ, "OLLAMA_ASYNC_MEM_CONFIG": str(settings)}
        begin = time.perf_counter()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            try:
                yield _ready(process, begin)
            finally:
                process.send_signal(signal.SIGTERM)


@contextmanager
def bare_relay() -> Iterator[Served]:
    """The floor of a proxy, in front of the scripted server."""
    command = [sys.executable, str(Path(__file__).parent / "bare_relay.py"), URL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            yield Served(process.pid, {"REST": "", "Ollama with memory": f"http://127.0.0.1:{port}"}, 0.0)
        finally:
            process.kill()


def _ready(process: subprocess.Popen[str], begin: float) -> Served:
    said = []
    for line in process.stderr or ():
        said.append(line)
        if "ready:" in line:
            return Served(process.pid, dict(_PLACE.findall(line)), begin)
    raise SystemExit(f"the server did not start: {''.join(said)}")


class Client:
    """One connection, with as little of HTTP as its answers need: it shall not be what is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    @classmethod
    async def connect(cls, url: str) -> Client:
        """Open it."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port), parts.netloc)

    def send(self, path: str, body: dict[str, Any], headers: str = "") -> None:
        """Send a request."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n{headers}"
        self._writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    async def get(self, path: str) -> int:
        """Ask for something; returns the status."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        return int((await self.answer()).split()[1])

    async def piece(self) -> bytes:
        """Read what has come."""
        return await self._reader.read(_READ_BYTES)

    async def answer(self) -> bytes:
        """Read a whole answer, in chunks or with a length."""
        answer = await self._reader.readuntil(b"\r\n\r\n")
        expect(answer.split()[1], b"200")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        if length:
            return answer + await self._reader.readexactly(int(length[1]))
        while not answer.endswith(_END):
            answer += await self._some()
        return answer

    async def first_ms(self, path: str, body: dict[str, Any], headers: str = "") -> float:
        """Send a chat and read it to its end; returns when the first of it came."""
        begin, came, first_ms = time.perf_counter(), b"", 0.0
        self.send(path, body, headers)
        while not came.endswith(_END):
            came += await self._some()
            if not first_ms and b'"done"' in came:
                first_ms = (time.perf_counter() - begin) * 1e3
        return first_ms

    async def _some(self) -> bytes:
        if more := await self.piece():
            return more
        raise SystemExit("the connection was closed within an answer")

    def close(self) -> None:
        """Close it."""
        self._writer.close()


async def fill() -> None:
    """Store the memories, as many for each user."""
    import numpy as np  # noqa: PLC0415 - contenders that measure need none

    from ollama_async_mem import Memory  # noqa: PLC0415 - likewise

    from .texts import sentences  # noqa: PLC0415 - likewise

    if STORE.exists():
        return
    async with Memory(STORE, host=URL, llm="single:1", embedder=EMBEDDER, extract_here=False) as mem:
        messages = sentences(CASE["rows"], np.random.default_rng(CASE["seed"]))
        size = min(500, len(messages) // len(USERS))
        for number, start in enumerate(range(0, len(messages), size)):
            await mem.add(messages[start : start + size], user_id=USERS[number % len(USERS)], infer=False)


def queries(count: int) -> list[str]:
    """Questions about what is stored, no two of them the same, so that no vector is at hand."""
    import numpy as np  # noqa: PLC0415 - as above

    from .texts import questions  # noqa: PLC0415 - as above

    asked = questions(count, np.random.default_rng(CASE["seed"] + 1))
    return [f"{question} ({number})" for number, question in enumerate(asked)]
