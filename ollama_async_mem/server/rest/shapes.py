"""What requests hold and answers say, as Structs: they are the schema of the API, and they are checked when read.

What the library has a record for is answered as that record; only what it has none for stands here.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from ollama_async_mem.memory.context import LEAST_SCORE
from ollama_async_mem.ollama.models import PullState  # noqa: TC001 - as above
from ollama_async_mem.records import Hit, Kind, Scope, Sort
from ollama_async_mem.server.problems import Problem  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AddMany",
    "AddMemories",
    "AskContext",
    "BriefContext",
    "Broken",
    "ChangeConfiguration",
    "ChangeMemory",
    "Chat",
    "ChatEvent",
    "Configuration",
    "Context",
    "CountMemories",
    "DeleteMemories",
    "Deleted",
    "Done",
    "ExportMemories",
    "Health",
    "Imported",
    "ListJobs",
    "ListMemories",
    "ListScopes",
    "ModelName",
    "ModelSettings",
    "Progress",
    "PullEvent",
    "Pulled",
    "Readiness",
    "Recalled",
    "Retried",
    "Said",
    "Scoped",
    "Search",
    "Token",
    "WatchEvents",
    "Who",
]

MAX_DEPTH = 100
MAX_TEXT = 1_000_000
"""Characters of one text: what is longer is a document, to be split by whoever knows its parts."""

Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=512)]
Text: TypeAlias = Annotated[str, Meta(max_length=MAX_TEXT)]
Words: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=1_000)]
Tokens: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
Score: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Kinds: TypeAlias = Annotated[tuple[Kind, ...], Meta(min_length=1, max_length=2)]
Time: TypeAlias = Annotated[
    datetime,
    Meta(description="ISO 8601; without a zone it is in UTC", extra_json_schema={"format": "date-time"}),
]
Infer: TypeAlias = Annotated[
    Literal["background", "now"] | bool,
    Meta(description="when facts are extracted: behind, before the answer, or false"),
]
Metadata: TypeAlias = dict[str, Any]
Filters: TypeAlias = Annotated[
    dict[str, Any], Meta(description='conditions, such as {"topic": "food", "at": {"gte": "2026-01-01"}}')
]
Parts: TypeAlias = Annotated[list[dict[str, Any]], Meta(max_length=1_000)]
_BOTH: tuple[Kind, ...] = ("turn", "fact")


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What all requests have in common: a field that nobody knows is refused."""


class Scoped(Request, frozen=True, kw_only=True):
    """Whose memory is meant. A key that is bound to a user or an agent need not name it."""

    user_id: Id | None = None
    agent_id: Id | None = None
    run_id: Id | None = None


class Said(Request, frozen=True, kw_only=True):
    """A message, as OpenAI and Ollama have it. `timestamp` is when it was said, `name` who said it.

    `images` are base64 or data URLs.
    """

    role: Annotated[str, Meta(min_length=1, max_length=100)] = "user"
    content: Text | Parts | None = None
    name: Annotated[str, Meta(max_length=512)] | None = None
    timestamp: Time | None = None
    images: Annotated[list[str], Meta(max_length=20)] | None = None
    tool_calls: Annotated[list[dict[str, Any]], Meta(max_length=100)] | None = None
    tool_name: Annotated[str, Meta(max_length=512)] | None = None


Messages: TypeAlias = Words | Said | Annotated[list[Words | Said], Meta(min_length=1, max_length=1_000)]


class AddMemories(Scoped, frozen=True, kw_only=True):
    """Messages to store: a text, a message, or a list of either.

    Under a `key` the same is stored once. A naive time is one in UTC.
    """

    messages: Messages
    metadata: Metadata | None = None
    timestamp: Time | None = None
    expires_at: Time | None = None
    key: Annotated[str, Meta(min_length=1, max_length=1_000)] | None = None
    infer: Infer = "background"
    prompt: Text | None = None

    def __post_init__(self) -> None:
        _require_flat(self.metadata)


class AddMany(Request, frozen=True, kw_only=True):
    """Conversations to store together."""

    additions: Annotated[list[AddMemories], Meta(max_length=1_000)]


class Find(Scoped, frozen=True, kw_only=True):
    """What is looked for, and where."""

    query: Annotated[str, Meta(min_length=1, max_length=20_000)]
    filters: Filters | None = None
    as_of: Time | None = None


class Search(Find, frozen=True, kw_only=True):
    """What is looked for, where, and how many; `explain` says what each index contributed to a score."""

    limit: Limit = 10
    kinds: Kinds = _BOTH
    min_score: Score | None = None
    explain: bool = False


class BriefContext(Find, frozen=True, kw_only=True):
    """What is written down for a prompt, and how much."""

    max_tokens: Tokens = 800
    min_score: Score = LEAST_SCORE


class AskContext(BriefContext, frozen=True, kw_only=True):
    """The same, where the prompt has some of it already: what is `known` is left out."""

    known: Annotated[list[Text], Meta(max_length=1_000)] = []


class ListMemories(Scoped, frozen=True, kw_only=True):
    """Which memories are listed, in which order; `cursor` is that of the page before."""

    kinds: Kinds = _BOTH
    filters: Filters | None = None
    as_of: Time | None = None
    sort: Sort = "-at"
    limit: Limit = 100
    cursor: Annotated[str, Meta(max_length=2_000)] | None = None


class DeleteMemories(Scoped, frozen=True, kw_only=True):
    """Which memories are destroyed; only with `confirm=true`, for there is no way back."""

    confirm: bool
    kinds: Kinds = _BOTH
    filters: Filters | None = None
    cause: Annotated[str, Meta(max_length=1_000)] | None = None


class ChangeMemory(Request, frozen=True, kw_only=True):
    """What is to be changed; what is left out stays. Metadata is merged key by key, where null removes a key."""

    text: Words | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    expires_at: Time | UnsetType | None = UNSET
    cause: Annotated[str, Meta(max_length=1_000)] | None = None

    def __post_init__(self) -> None:
        _require_flat(self.metadata)


class CountMemories(Scoped, frozen=True, kw_only=True):
    """Whose memories are counted; without any id, all that the key may see."""


class ListScopes(Scoped, frozen=True, kw_only=True):
    """Whose scopes are listed; `after` is the last one of the page before."""

    limit: Limit = 100
    after: Scope | None = None


class Chat(Scoped, frozen=True, kw_only=True):
    """What is said to the model. The last message is what the memory is asked for; those before it are context.

    With `explain` the first event has the hits behind the lines.
    """

    messages: Words | Annotated[list[Words | Said], Meta(min_length=1, max_length=1_000)]
    max_tokens: Tokens = 800
    min_score: Score = LEAST_SCORE
    remember: bool = True
    infer: Infer = "background"
    explain: bool = False


class WatchEvents(Scoped, frozen=True, kw_only=True):
    """Whose events are sent; without any id, all that the key may see."""


class ListJobs(Request, frozen=True, kw_only=True):
    """How many jobs are listed."""

    limit: Limit = 100


class ModelName(Request, frozen=True, kw_only=True):
    """A model by name."""

    model: Annotated[str, Meta(min_length=1, max_length=512)]


class ModelSettings(Request, frozen=True, kw_only=True):
    """How the chat model answers; what is left out stays, and null is the model's own choice. See `OllamaConfig`."""

    model: str | UnsetType = UNSET
    temperature: float | UnsetType | None = UNSET
    max_tokens: int | UnsetType | None = UNSET
    top_p: float | UnsetType | None = UNSET
    top_k: int | UnsetType | None = UNSET
    num_ctx: int | UnsetType | None = UNSET
    think: bool | str | UnsetType | None = UNSET


class ChangeConfiguration(Request, frozen=True, kw_only=True):
    """What is changed while the server runs."""

    llm: ModelSettings


class ExportMemories(Scoped, frozen=True, kw_only=True):
    """Whose memories are written down; without any id, all that the key may see."""


class Deleted(Struct, frozen=True):
    """How many memories were destroyed."""

    deleted: int


class Imported(Struct, frozen=True, kw_only=True):
    """How many turns, facts and jobs were read, how many of the memories were new, and how many are here otherwise."""

    turns: int
    facts: int
    jobs: int
    new: int
    differing: int


class Retried(Struct, frozen=True):
    """How many jobs are tried again."""

    jobs: int


class Context(Struct, frozen=True):
    """Dated lines for a prompt, oldest first; "" where nothing fits."""

    text: str


class Who(Struct, frozen=True, kw_only=True):
    """Whose key came with the request, what it is bound to and what it allows."""

    name: str
    user_id: str | None
    agent_id: str | None
    may_write: bool
    admin: bool


class Configuration(Struct, frozen=True, kw_only=True):
    """What the server works with. `embedder` is None before anything was stored; `llm` is None without a chat model."""

    version: str
    you: Who
    llm: ModelSettings | None
    embedder: str | None
    may_change: bool


class Health(Struct, frozen=True):
    """That the process lives."""

    status: str


class Readiness(Struct, frozen=True):
    """Whether the parts that the server needs answer."""

    store: bool
    ollama: bool


class Recalled(Struct, frozen=True, tag_field="event", tag="recalled"):
    """The first event of a chat: the lines that the model was given, and with `explain` the hits behind them."""

    text: str
    hits: tuple[Hit, ...] = ()


class Token(Struct, frozen=True, tag_field="event", tag="token"):
    """A piece of the answer."""

    text: str


class Done(Struct, frozen=True, tag_field="event", tag="done"):
    """The last event of a chat: what was remembered of it. `error` says why nothing was."""

    turn_ids: tuple[str, ...] = ()
    job_id: str | None = None
    error: str | None = None


class Progress(Struct, frozen=True, tag_field="event", tag="progress"):
    """How far a pull is, over all layers that are known so far."""

    progress: PullState


class Pulled(Struct, frozen=True, tag_field="event", tag="done"):
    """The last event of a pull: the model is there."""

    model: str


class Broken(Struct, frozen=True, tag_field="event", tag="error"):
    """The last event of a stream that failed after it had begun."""

    problem: Problem


def _require_flat(metadata: object) -> None:
    """Raise ValueError, which msgspec makes its own error, where metadata is nested too deep for stores."""
    level = [metadata]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise ValueError(f"metadata is nested deeper than {MAX_DEPTH} levels")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


ChatEvent: TypeAlias = Recalled | Token | Done | Broken
PullEvent: TypeAlias = Progress | Pulled | Broken
