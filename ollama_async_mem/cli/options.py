"""Options that several commands share, as cyclopts reads them from annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypedDict

from cyclopts import Group, Parameter

__all__ = ["Json", "Setup", "Who"]

_SETUP = Group("Store and models", sort_key=2)
_WHO = Group("Whose memory", sort_key=1)

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object, for programs.")]


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
