"""Options that several commands share, as cyclopts reads them from annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypedDict

import msgspec
from cyclopts import Group, Parameter

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.records import Kind

__all__ = ["Json", "Kinds", "Owner", "Server", "Setup", "Which", "Who", "Whose", "json_object"]

_SETUP = Group("Store and models", sort_key=2)
_WHO = Group("Whose memory", sort_key=1)
_FILTER = (
    'Conditions on metadata and fields, as JSON: {"topic": "food", "at": {"gte": "2026-01-01"}}, with eq ne gt gte lt '
    "lte in nin contains icontains exists, and AND OR NOT."
)

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object, for programs.")]
Kinds: TypeAlias = Annotated[
    tuple[Kind, ...],
    Parameter(
        name="--kinds", consume_multiple=True, negative="", help="Only turns (what was said), or facts drawn from them."
    ),
]


def json_object(name: str, text: str | None) -> dict[str, Any] | None:
    """Read an argument that is a JSON object.

    Raises:
        ConfigError: it is something else.
    """
    if text is None:
        return None
    try:
        return msgspec.json.decode(text.encode(errors="surrogateescape"), type=dict[str, Any])
    except msgspec.MsgspecError as exc:
        raise ConfigError(f'{name} is a JSON object such as {{"topic": "food"}}, in quotes: {exc}') from exc


@Parameter(name="*", group=_SETUP)
@dataclass(frozen=True)
class Setup:
    """Where the memories lie and which server and models work on them."""

    store: str | None = None
    "Path or URL of the store. Default: OLLAMA_ASYNC_MEM_STORE, else one file in your data folder."
    host: str | None = None
    "The Ollama server. Default: OLLAMA_HOST, else http://127.0.0.1:11434."
    llm: Annotated[str | None, Parameter(env_var="OLLAMA_ASYNC_MEM_LLM")] = None
    "Chat model. Default: llama3.2, with --engine smollm2:135m."
    embedder: Annotated[str | None, Parameter(env_var="OLLAMA_ASYNC_MEM_EMBEDDER")] = None
    "Embedding model. Default: nomic-embed-text, with --engine wordllama."
    engine: Annotated[bool, Parameter(env_var="OLLAMA_ASYNC_MEM_ENGINE", negative="")] = False
    "Use the embedded engine instead of Ollama; it runs as long as the command."


@Parameter(name="*", group=Group("Server", sort_key=2))
@dataclass(frozen=True)
class Server:
    """Which server, where stores have no part in it."""

    host: str | None = None
    "The Ollama server. Default: OLLAMA_HOST, else http://127.0.0.1:11434."
    engine: Annotated[bool, Parameter(env_var="OLLAMA_ASYNC_MEM_ENGINE", negative="")] = False
    "Use the embedded engine instead of Ollama; it runs as long as the command."

    @property
    def setup(self) -> Setup:
        """The same as other commands have it."""
        return Setup(host=self.host, engine=self.engine)


class Ids(TypedDict):
    """The scope arguments of the library."""

    user_id: str | None
    agent_id: str | None
    run_id: str | None


@Parameter(name="*", group=_WHO)
@dataclass(frozen=True)
class Who:
    """Whose memory it is."""

    user: Annotated[str | None, Parameter(name=["--user", "-u"], env_var="OLLAMA_ASYNC_MEM_USER")] = None
    "The user. Default: me, unless --agent or --run is given."
    agent: str | None = None
    "The agent."
    run: str | None = None
    "The run, or session."

    @property
    def ids(self) -> Ids:
        """The scope, as arguments of the library."""
        user = self.user or (None if self.agent or self.run else "me")
        return {"user_id": user, "agent_id": self.agent, "run_id": self.run}


@Parameter(name="*", group=_WHO)
@dataclass(frozen=True)
class Whose:
    """Whose memories, where all of them is a sensible answer."""

    user: Annotated[str | None, Parameter(name=["--user", "-u"])] = None
    "Only those of this user. Default: everyone."
    agent: str | None = None
    "Only those of this agent."
    run: str | None = None
    "Only those of this run, or session."

    @property
    def ids(self) -> Ids:
        """The scope, as arguments of the library."""
        return {"user_id": self.user, "agent_id": self.agent, "run_id": self.run}


@Parameter(name="*", group=_WHO)
@dataclass(frozen=True)
class Owner(Whose):
    """Whose memories those become that are brought in."""

    user: Annotated[str | None, Parameter(name=["--user", "-u"])] = None
    "Whose they become. Default: what the file says, else me."
    agent: str | None = None
    "The agent whose they become."
    run: str | None = None
    "The run, or session, whose they become."


class Conditions(TypedDict):
    """Filters and time, as arguments of the library."""

    filters: dict[str, Any] | None
    as_of: str | None


@Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Which memories of a scope."""

    filter: Annotated[str | None, Parameter(help=_FILTER)] = None
    as_of: str | None = None
    "Only what was known and held at that time, such as 2026-05-01 or 2026-05-01T18:30:00Z."

    @property
    def conditions(self) -> Conditions:
        """The same as arguments of the library.

        Raises:
            ConfigError: the filter is no JSON object.
        """
        return {"filters": json_object("--filter", self.filter), "as_of": self.as_of}
