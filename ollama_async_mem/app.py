"""The composition root: settings become an opened memory. The only place that names concrete classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import anyio.to_thread

from ollama_async_mem.config import load_settings, settings_file
from ollama_async_mem.connect import connect
from ollama_async_mem.llm import OllamaLLM
from ollama_async_mem.memory.service import MemoryService
from ollama_async_mem.memory.weights import RankingWeights
from ollama_async_mem.portable import export_file, import_file
from ollama_async_mem.records import Scope
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores.transfer import export_lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from ollama_async_mem.config import ConnectionConfig, MemoryConfig, Settings
    from ollama_async_mem.memory.behaviour import Behaviour
    from ollama_async_mem.ollama.client import OllamaClient
    from ollama_async_mem.ports import ChatModel, Embedder, MemoryStore
    from ollama_async_mem.stores.transfer import CopyReport

__all__ = ["Memory"]

T = TypeVar("T")


class Memory(MemoryService):
    """A memory on a local Ollama server and an embedded store.

    Args:
        store: path or URL of the store, or any `ports.MemoryStore`; by default OLLAMA_ASYNC_MEM_STORE, else one
            file in the user's data folder.
        llm: chat model for extraction and `chat`, by name or as any `ports.ChatModel`; by default
            OLLAMA_ASYNC_MEM_LLM, else llama3.2.
        vision: model that describes images in messages, by name or as any `ports.ChatModel`; by default there is none.
        embedder: embedding model, by name or as any `ports.Embedder`; by default OLLAMA_ASYNC_MEM_EMBEDDER, else
            nomic-embed-text. A store holds the vectors of one model only.
        host: the Ollama server of both models, in the grammar of OLLAMA_HOST, which is the default.
        client: an `OllamaClient` to use for both models, whatever the settings say; it stays open afterwards.
        config: settings, as a mapping or the path of a YAML or JSON file, see `load_config`; by default the file
            that OLLAMA_ASYNC_MEM_CONFIG names. Variables win over them, and arguments over both.
        **behaviour: `extract_here`, `prompt`, `idle_s`, `concurrency`, `same_within`, `weights`,
            `reranker`, as of `MemoryService`.

    Constructing does no I/O. A settings file is read when the memory is opened: only then it may be found wrong, and
    only then `store` and `client` are those that it names.
    """

    client: OllamaClient

    def __init__(
        self,
        store: str | os.PathLike[str] | MemoryStore | None = None,
        *,
        llm: str | ChatModel | None = None,
        vision: str | ChatModel | None = None,
        embedder: str | Embedder | None = None,
        host: str | None = None,
        client: OllamaClient | None = None,
        config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        **behaviour: Unpack[Behaviour],
    ) -> None:
        config = settings_file() if config is None else config
        names = {"store": _name(store), "llm": _name(llm), "embedder": _name(embedder), "host": host}
        self._file = None if isinstance(config, Mapping) else config
        self._load = partial(load_settings, **names)
        self._assemble = partial(
            self._assembled,
            store=store,
            llm=llm,
            vision=vision,
            embedder=embedder,
            client=client,
            behaviour=behaviour,
        )
        self._assemble(self._load(config=config if self._file is None else {}))

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | os.PathLike[str], **arguments: Any) -> Self:
        """Make a memory of settings, see `load_config` for their shape; other arguments win over them.

        Raises:
            ConfigError: a setting in a mapping is unknown or cannot be; those in a file are read on opening.
        """
        return cls(config=config, **arguments)

    async def __aenter__(self) -> Self:
        if self._file is not None:
            self._assemble(await anyio.to_thread.run_sync(partial(self._load, config=self._file)))
            self._file = None
        return await super().__aenter__()

    async def export(
        self,
        path: str | os.PathLike[str],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> int:
        """Write memories to a file of JSON lines, with vectors, histories and waiting jobs; without any id, all.

        Returns how many there were. The file is there as a whole or not at all.

        Raises:
            StoreError: the file cannot be written.
        """
        return await export_file(self.export_lines(user_id=user_id, agent_id=agent_id, run_id=run_id), path)

    def export_lines(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Return the lines that `export` writes, with their ends, as they are read.

        Use it inside `contextlib.aclosing`. The last line counts those before: without it `import_` refuses them.
        """
        self._require_open()
        everything = user_id is agent_id is run_id is None
        return export_lines(self.store, Scope() if everything else self._scope(user_id, agent_id, run_id))

    async def import_(
        self, path: str | os.PathLike[str], *, on_progress: Callable[[int, int], object] | None = None
    ) -> CopyReport:
        """Store what `export` wrote, but what is there already. Only vectors of another model are made anew.

        `on_progress` gets the number of memories that are done, and of all.

        Raises:
            ConfigError: the file cannot be read, or a line is wrong; what came before it may be stored.
            OllamaError: vectors had to be made, and could not be.
        """
        self._require_open()
        return await import_file(self.store, self._embedder, path, on_progress=on_progress)

    def _assembled(
        self,
        settings: Settings,
        *,
        store: str | os.PathLike[str] | MemoryStore | None,
        llm: str | ChatModel | None,
        vision: str | ChatModel | None,
        embedder: str | Embedder | None,
        client: OllamaClient | None,
        behaviour: Behaviour,
    ) -> None:
        """Make the parts that were not given, with one client for all that one can serve."""
        from ollama_async_mem.embedding import OllamaEmbedder  # noqa: PLC0415 - numpy, for whoever makes a memory

        clients: dict[object, OllamaClient] = {}

        def client_for(config: ConnectionConfig) -> OllamaClient:
            if client is None and config.connection not in clients:
                clients[config.connection] = connect(config)
            return client or clients[config.connection]

        self.client = client_for(settings.llm.without_timeout())
        super().__init__(
            store=_given_or(store, lambda: open_store(settings.store)),
            embedder=_given_or(
                embedder, lambda: OllamaEmbedder(settings.embedder, client=client_for(settings.embedder))
            ),
            llm=_given_or(llm, lambda: OllamaLLM(settings.llm, client=client_for(settings.llm))),
            vision=OllamaLLM(vision, client=client_for(settings.llm)) if isinstance(vision, str) else vision,
            **(_behaviour(settings.memory) | behaviour),
            resources=tuple(clients.values()),
        )


def _behaviour(config: MemoryConfig) -> Behaviour:
    """What the settings say of how a memory works, as its arguments."""
    return {
        "prompt": config.prompt,
        "idle_s": config.idle_s,
        "concurrency": config.concurrency,
        "extract_here": config.extract,
        "same_within": timedelta(seconds=config.same_within),
        "weights": RankingWeights(**config.weights.given),
    }


def _name(value: object) -> str | None:
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


def _given_or(value: T | str | os.PathLike[str] | None, make: Callable[[], T]) -> T:
    """The object that was given, or one that is made where a name or nothing was."""
    return make() if value is None or isinstance(value, str | os.PathLike) else value
