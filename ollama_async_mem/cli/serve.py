"""The command that serves: options to settings, the memory opened, and what is said of where it listens."""

from __future__ import annotations

import asyncio
import gc
import logging
import logging.handlers
import os
import queue
import signal
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from cyclopts import App, Group, Parameter

from ollama_async_mem.app import Memory
from ollama_async_mem.cli.keys import KEYS_HELP, key_file
from ollama_async_mem.cli.options import Setup
from ollama_async_mem.cli.output import note
from ollama_async_mem.cli.session import embedder_of, open_memory, settings_of
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.server.audit import AUDIT_LOGGER
from ollama_async_mem.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ollama_async_mem.server.serve import Running

__all__ = ["serve"]

_NAMES = {"rest": "REST", "page": "page", "mcp": "MCP", "proxy": "Ollama with memory"}
_REPEATED = Parameter(negative="")

serve = App(name="serve", help="Serve REST, the web page, MCP, and an Ollama endpoint that remembers, until Ctrl-C.")


@Parameter(name="*", group=Group("Listening", sort_key=1))
@dataclass(frozen=True)
class Listening:
    """Where it listens and which parts it has; None is what the settings say."""

    host: str | None = None
    "The address to listen on. Any other than the loopback's needs a key, see `keys create`. Default: 127.0.0.1."
    port: int | None = None
    "The port of REST, page and MCP. Default: 11436."
    proxy_port: int | None = None
    "The port of the Ollama endpoint that remembers. Default: 11435."
    rest: bool | None = None
    "Serve REST. Default: true."
    page: bool | None = None
    "Serve the web page, which needs REST. Default: true."
    mcp: bool | None = None
    "Serve MCP. Default: true."
    proxy: bool | None = None
    "Serve the Ollama endpoint that remembers. Default: true."
    allow_config: bool | None = None
    "Let admins change settings while it runs. Default: false."
    tls_cert: str | None = None
    "File with the certificates for https."
    tls_key: str | None = None
    "File with their key, where it is another one."
    base_path: str | None = None
    "Where a reverse proxy shows this server, such as /memory."


@Parameter(name="*", group=Group("Trust and limits", sort_key=2))
@dataclass(frozen=True)
class Trust:
    """Whom it trusts, and how much it takes; None is what the settings say."""

    allow_host: Annotated[tuple[str, ...] | None, _REPEATED] = None
    "A name of this server besides its address, as a reverse proxy or a container uses it."
    allow_origin: Annotated[tuple[str, ...] | None, _REPEATED] = None
    "A page of another server that may use this one, such as https://notes.example.org."
    trusted_proxy: Annotated[tuple[str, ...] | None, _REPEATED] = None
    "Address or network of a reverse proxy whose X-Forwarded-For and X-Forwarded-Proto are believed."
    body_bytes: int | None = None
    "The largest body of a request. Default: 10000000."
    proxy_body_bytes: int | None = None
    "The same for the Ollama endpoint, where images come in. Default: 100000000."
    requests_per_minute: int | None = None
    "Requests of one key in a minute. Default: 6000."
    concurrency: int | None = None
    "Requests at once, in all. Default: 1024."
    concurrency_per_key: int | None = None
    "Requests at once of one key. Default: 256."
    head_s: float | None = None
    "How many seconds the head of a request may take to arrive. Default: 10."
    body_s: float | None = None
    "How many its body may take. Default: 60."
    keep_alive_s: int | None = None
    "How many seconds a connection may be idle. Default: 75."
    deadline_s: float | None = None
    "How many seconds answers may go on when the server ends. Default: 10."


@Parameter(name="*", group=Group("Store and models", sort_key=3))
@dataclass(frozen=True)
class Works:
    """Where the memories lie and which server and models work on them."""

    store: str | None = None
    "Path or URL of the store. Default: OLLAMA_ASYNC_MEM_STORE, else one file in your data folder."
    ollama: str | None = None
    "The Ollama server. Default: OLLAMA_HOST, else http://127.0.0.1:11434."
    llm: str | None = None
    "Chat model. Default: OLLAMA_ASYNC_MEM_LLM, else llama3.2, with --engine smollm2:135m."
    embedder: str | None = None
    "Embedding model. Default: OLLAMA_ASYNC_MEM_EMBEDDER, else that of the store, else nomic-embed-text."
    engine: Annotated[bool, Parameter(env_var="OLLAMA_ASYNC_MEM_ENGINE", negative="")] = False
    "Use the embedded engine instead of Ollama; it runs as long as the server."

    @property
    def setup(self) -> Setup:
        """The same as other commands have it."""
        return Setup(self.store, self.ollama, self.llm, self.embedder, self.engine)


@serve.default
async def serve_all(
    *,
    listening: Listening = Listening(),
    trust: Trust = Trust(),
    works: Works = Works(),
    keys: Annotated[str | None, Parameter(help=KEYS_HELP)] = None,
    audit_log: str | None = None,
) -> None:
    """Serve until Ctrl-C. Options stand in the section `server` of the settings file too, see `config init`.

    Those under "Listening" and "Trust and limits" are also variables: OLLAMA_ASYNC_MEM_SERVER_PORT, and so on. The
    first Ctrl-C lets answers finish that are under way; the second one leaves at once, which loses nothing that was
    stored.

    Args:
        audit_log: File for a line of JSON for each change: who and what, but no text. Default: standard error.
    """
    configured = (await settings_of(works.setup)).server
    settings = ServerSettings(**configured.given | _given(listening) | _given(trust))
    from ollama_async_mem.server.serve import parts_of, require_extras, serving  # noqa: PLC0415 - needs the extra

    require_extras(settings)
    file = await anyio.to_thread.run_sync(key_file, keys, works.store)
    with _audit_to(audit_log or configured.audit_log), _signals() as told_to_end:
        async with (
            _memory(works.setup) as memory,
            serving(partial(parts_of, memory, settings), settings, file) as running,
        ):
            note(_ready_line(running))
            gc.collect()
            gc.freeze()  # what is loaded stays: the garbage collector would stop all for a look at it again and again
            await told_to_end.wait()
            note(f"ending: answers have {settings.deadline_s:g} s to finish, Ctrl-C leaves at once")


def _given(options: Listening | Trust) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if value is not None}


@asynccontextmanager
async def _memory(setup: Setup) -> AsyncIterator[Memory]:
    """A memory that works with or without its Ollama, which may come later."""
    if setup.engine:
        async with open_memory(setup, extract=None) as memory:
            yield memory
        return
    embedder = setup.embedder or await embedder_of(setup)
    async with Memory(setup.store, llm=setup.llm, embedder=embedder, host=setup.host) as memory:
        yield memory


def _ready_line(running: Running) -> str:
    places = ", ".join(f"{_NAMES[name]} at {url}" for name, url in running.urls.items())
    return f"ready: {places}; Ctrl-C ends it"


@contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one ends the process at once, whatever it is doing."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    seen: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if seen:
            os._exit(128 + number)
        seen.append(number)
        loop.call_soon_threadsafe(told.set)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _audit_to(path: str | None) -> Iterator[None]:
    """Write the audit's lines to a file, or to standard error; in a thread, as a disk may be slow."""
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    try:
        target = logging.FileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    except OSError as exc:
        raise ConfigError(f"cannot write --audit-log {path}: {exc.strerror}") from exc
    log, handler = logging.getLogger(AUDIT_LOGGER), logging.handlers.QueueHandler(lines)
    writer = logging.handlers.QueueListener(lines, target)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    writer.start()
    try:
        yield
    finally:
        log.removeHandler(handler)
        writer.stop()
        target.close()
