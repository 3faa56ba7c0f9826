"""What tools take and answer, as Structs. Their descriptions are written for language models.

The schemas that clients see are made of them, without references: many clients follow none.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec resolves annotations at run time
from functools import cache
from typing import Annotated, Any, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ollama_async_mem.records import EventKind, Kind, Sort

__all__ = [
    "Added",
    "Change",
    "Context",
    "Deleted",
    "Found",
    "History",
    "Item",
    "Listing",
    "Scoped",
    "ToAdd",
    "ToDelete",
    "ToDeleteAll",
    "ToGet",
    "ToList",
    "ToSearch",
    "ToUpdate",
    "ToWrite",
    "schema_of",
]

MOST_TEXT = 1_000_000
_REF = "#/"

User: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=512, description="Whose memory. Leave it out for the person you talk to.")
]
Agent: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=512, description="Only what belongs to this agent. Usually left out.")
]
Run: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=512, description="Only what belongs to this conversation. Usually left out.")
]
Time: TypeAlias = Annotated[str, Meta(max_length=64, description="ISO 8601: 2026-05-01 or 2026-05-01T18:30:00Z.")]
Query: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=20_000, description="A question or words, such as: which food does she avoid?")
]
Kinds: TypeAlias = Annotated[
    tuple[Kind, ...],
    Meta(
        min_length=1,
        max_length=2,
        description='"turn": what was said, word for word. "fact": statements drawn from it. Default: both.',
    ),
]
Filters: TypeAlias = Annotated[
    dict[str, Any],
    Meta(
        description='Conditions on fields and metadata: {"at": {"gte": "2026-05-01", "lt": "2026-06-01"}} or '
        '{"topic": "food"}. Operators: eq ne gt gte lt lte in nin contains icontains exists, and AND OR NOT with '
        "lists of conditions. Fields: at, created_at, role, speaker, text; any other name is metadata."
    ),
]
AsOf: TypeAlias = Annotated[
    str, Meta(max_length=64, description="What was known and true at this time instead of now, in ISO 8601.")
]
Metadata: TypeAlias = Annotated[
    dict[str, Any], Meta(description='Kept beside it, to filter by, such as {"topic": "food"}.')
]
MemoryId: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=200, description="The id of a memory, from a search or a list.")
]
Reason: TypeAlias = Annotated[str, Meta(max_length=1_000, description="Why, for the history.")]
Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MOST_TEXT)]
_BOTH: tuple[Kind, ...] = ("turn", "fact")


class Arguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What all tools have in common: an argument that nobody knows is refused, so that a slip is noticed."""


class Scoped(Arguments, frozen=True, kw_only=True):
    """Whose memory is meant."""

    user_id: User | UnsetType = UNSET
    agent_id: Agent | UnsetType = UNSET
    run_id: Run | UnsetType = UNSET


class Said(Arguments, frozen=True, kw_only=True):
    """One message of a conversation."""

    content: Text
    role: Annotated[str, Meta(min_length=1, max_length=100, description='"user" or "assistant".')] = "user"
    name: Annotated[str, Meta(max_length=512, description="Who says it, where the role does not tell.")] | UnsetType = (
        UNSET
    )
    timestamp: Time | UnsetType = UNSET


class ToAdd(Scoped, frozen=True, kw_only=True):
    """What is to be remembered."""

    messages: Annotated[
        Text | Annotated[list[Said], Meta(min_length=1, max_length=1_000)],
        Meta(description="One text, or the messages of a conversation in their order. Word for word."),
    ]
    metadata: Metadata | UnsetType = UNSET
    timestamp: (
        Annotated[str, Meta(max_length=64, description="When it was said, in ISO 8601. Default: now.")] | UnsetType
    ) = UNSET
    expires_at: (
        Annotated[str, Meta(max_length=64, description="From when on to forget it, in ISO 8601. Default: never.")]
        | UnsetType
    ) = UNSET
    infer: Annotated[
        bool, Meta(description="Whether facts are drawn from it later. Off where the text is a fact already.")
    ] = True


class Find(Scoped, frozen=True, kw_only=True):
    """What is looked for, and where."""

    query: Query
    filters: Filters | UnsetType = UNSET
    as_of: AsOf | UnsetType = UNSET


class ToSearch(Find, frozen=True, kw_only=True):
    """What is looked for, where, and how many."""

    limit: Annotated[int, Meta(ge=1, le=100, description="Most results.")] = 10
    kinds: Kinds = _BOTH
    min_score: (
        Annotated[float, Meta(ge=0, le=1, description="Leave out what scores less; 0.1 is weak.")] | UnsetType
    ) = UNSET


class ToWrite(Find, frozen=True, kw_only=True):
    """What is written down, and how much."""

    max_tokens: Annotated[int, Meta(ge=1, le=100_000, description="How long the answer may be.")] = 800


class ToList(Scoped, frozen=True, kw_only=True):
    """Which memories are listed, and in which order."""

    kinds: Kinds = _BOTH
    filters: Filters | UnsetType = UNSET
    as_of: AsOf | UnsetType = UNSET
    sort: Annotated[Sort, Meta(description='By time: "-at" is newest first, "at" oldest first.')] = "-at"
    limit: Annotated[int, Meta(ge=1, le=200, description="Most memories of one page.")] = 20
    cursor: (
        Annotated[str, Meta(max_length=2_000, description="The cursor of the page before, for more.")] | UnsetType
    ) = UNSET


class ToGet(Arguments, frozen=True, kw_only=True):
    """Which memory is meant."""

    memory_id: MemoryId


class ToUpdate(ToGet, frozen=True, kw_only=True):
    """What is to be changed; what is left out stays."""

    text: Annotated[str, Meta(min_length=1, max_length=MOST_TEXT, description="The whole new text.")] | UnsetType = (
        UNSET
    )
    metadata: Annotated[dict[str, Any], Meta(description="Keys to set; null removes one.")] | UnsetType = UNSET
    expires_at: (
        Annotated[str, Meta(max_length=64, description='From when on to forget it, in ISO 8601, or "never".')]
        | UnsetType
    ) = UNSET
    cause: Reason | UnsetType = UNSET


class ToDelete(Arguments, frozen=True, kw_only=True):
    """Which memories are destroyed."""

    memory_ids: Annotated[list[MemoryId], Meta(min_length=1, max_length=100, description="Their ids.")]
    cause: Reason | UnsetType = UNSET


class ToDeleteAll(Scoped, frozen=True, kw_only=True):
    """Which memories are destroyed, and that this is meant."""

    confirm: Annotated[bool, Meta(description="Must be true, and only after the person has agreed: it is for good.")]
    kinds: Kinds = _BOTH
    filters: Filters | UnsetType = UNSET
    cause: Reason | UnsetType = UNSET


class Item(Struct, frozen=True, kw_only=True):
    """A memory. `at` is when it was said; `valid_to` from when on another fact took its place."""

    id: str
    kind: Kind
    text: str
    at: datetime
    who: str | UnsetType = UNSET
    score: float | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    agent_id: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    valid_to: datetime | UnsetType = UNSET
    expires_at: datetime | UnsetType = UNSET


class Added(Struct, frozen=True, kw_only=True):
    """What was stored. Without `is_new`, it had been there before."""

    memories: tuple[Item, ...]
    is_new: bool


class Found(Struct, frozen=True, kw_only=True):
    """The memories that fit, best first. `degraded` names the indexes that could not be asked."""

    memories: tuple[Item, ...]
    degraded: tuple[str, ...] = ()


class Listing(Struct, frozen=True, kw_only=True):
    """A page of memories; `cursor` fetches the next one."""

    memories: tuple[Item, ...]
    cursor: str | None = None


class Deleted(Struct, frozen=True, kw_only=True):
    """How many memories were destroyed, and the ids that no memory has."""

    deleted: int
    not_found: tuple[str, ...] = ()


class Change(Struct, frozen=True, kw_only=True):
    """One thing that happened to a memory."""

    kind: EventKind
    at: datetime
    old: str | UnsetType = UNSET
    new: str | UnsetType = UNSET
    actor: str | UnsetType = UNSET
    cause: str | UnsetType = UNSET
    by: str | UnsetType = UNSET


class History(Struct, frozen=True, kw_only=True):
    """What happened to a memory, oldest first."""

    events: tuple[Change, ...]


class Context(Struct, frozen=True, kw_only=True):
    """Dated lines, oldest first; "" where nothing fits."""

    text: str


@cache
def schema_of(shape: type[Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a Struct, with everything in its place; it is the same object each time."""
    [root], components = msgspec.json.schema_components([shape], ref_template=_REF + "{name}")
    return cast("dict[str, Any]", _inlined(root, components))


def _inlined(schema: Any, components: dict[str, Any]) -> Any:
    """Put what references refer to in their place, for no shape contains itself; enums get a type, as some need it."""
    if isinstance(schema, list):
        return [_inlined(part, components) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(components[schema["$ref"].removeprefix(_REF)], components)
    typed = {"type": "string"} if "enum" in schema else {}
    return typed | {name: _inlined(part, components) for name, part in schema.items() if name != "title"}
