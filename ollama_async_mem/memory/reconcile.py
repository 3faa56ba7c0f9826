"""What becomes of new facts beside those that are known: added, taken as said again, or in the place of others. Pure.

Rules decide where they can: by subject, attribute and value, by words, numbers, negations and times. What they cannot
tell is left open, and decided by verdicts where somebody gives them. Nothing is destroyed: a fact that another one
replaces ends at that one's time, also where the older one comes later. Knows nothing of the store and of models.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from ollama_async_mem.memory.dates import find_dates
from ollama_async_mem.memory.dates.words import listed
from ollama_async_mem.memory.keys import Key, bare, key_of
from ollama_async_mem.memory.places import are_apart
from ollama_async_mem.memory.sentences import RELATION
from ollama_async_mem.memory.wording import LIKES, content, is_negated, names, normal, numbers, plain, stem
from ollama_async_mem.records import Candidate, Fact, Reinforcement, Supersession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime

    from ollama_async_mem.memory.extract import Verdict

__all__ = ["Plan", "reconcile"]

Relation: TypeAlias = Literal["same", "conflict", "open", "none"]

SAME_COSINE = 0.97
"""From here on a fact that has no words of its own says nothing new."""
OPEN_COSINE = 0.8
_MOST_REPLACED = 2
_MIN_SHARED = 0.5
_CORRECTING = re.compile(
    r"\b(?:actually|i meant|i mean|correction|sorry|changed (?:my|our) minds?|not any ?more|no longer|instead)\b"
)
_CHANGING = re.compile(
    r"\b(?:now|nowadays|currently|recently|just|new|mov\w+|relocat\w+|switch\w+|chang\w+|start\w*|turn\w*|bec[ao]me|got|"
    r"quit|since|any ?more|no longer|not|instead|actually|meanwhile|these days|sorry|correction)\b"
)
"""What tells that the same person is told of, of whom something else was true before."""
_ADDING = re.compile(r"\b(?:also|too|as well|another|both|besides)\b")
_ABOUT_KEYS = frozenset(
    stem(word)
    for word in listed(
        "live move relocate reside base work start job employ name call join turn age old year new leave quit resign"
    )
)
_MOVING = re.compile(
    r"\b(?:moved|relocated|no longer|any ?more|used to|instead|now|nowadays|these days|meanwhile|i mean|i meant|sorry|"
    r"correction)\b"
)
_SINCE = re.compile(r"\bsince\b(?! (?:always|birth|childhood|(?:i|we|she|he|they) (?:was|were))\b)")
_NAMED = frozenset({"home", "work", "school"})
_OWNED = frozenset({"have", "own"})
_NO_NAMES = frozenset({"user", "assistant", "the"})
_BESIDES = frozenset({"friend", "besti"})
"""What somebody may be to one beside something else."""
_UNSAID = re.compile(r"\b(?:will|would|could|should)\b|'(?:ll|d)\b")
"""What sets a plan apart from a deed, and is none of the words that are compared."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be stored. `open` are pairs of a known and a new fact that no rule decides."""

    added: tuple[Fact, ...] = ()
    reinforced: tuple[Reinforcement, ...] = ()
    superseded: tuple[Supersession, ...] = ()
    open: tuple[tuple[Fact, Fact], ...] = ()


class _Gist(msgspec.Struct, frozen=True):
    """What a fact says, ready to be compared."""

    stems: tuple[str, ...]
    numbers: frozenset[str]
    days: frozenset[tuple[date, date]]
    names: frozenset[str]
    is_denied: bool
    is_planned: bool
    key: Key | None

    @property
    def words(self) -> frozenset[str]:
        return frozenset(self.stems)


def reconcile(
    new: Sequence[Fact],
    near: Sequence[Sequence[Candidate]],
    verdicts: Mapping[tuple[str, str], Verdict] | None = None,
) -> Plan:
    """Decide about new facts.

    Args:
        new: what was said, of one scope.
        near: for each of them the known facts next to it, ended ones among them, with their cosines; those of other
            owners and other kinds of memories are left alone.
        verdicts: what was found about pairs that were open, by the ids of the known and the new fact.
    """
    desk = _Desk(verdicts or {})
    for number in sorted(range(len(new)), key=lambda n: new[n].at):
        desk.take(new[number], near[number])
    return desk.plan()


class _Desk:
    """What was decided so far."""

    def __init__(self, verdicts: Mapping[tuple[str, str], Verdict]) -> None:
        self._verdicts = verdicts
        self._added: dict[str, Fact] = {}
        self._said_again: dict[str, Reinforcement] = {}
        self._ended: dict[str, Supersession] = {}
        self._open: list[tuple[Fact, Fact]] = []

    def plan(self) -> Plan:
        """What is to be stored by that."""
        return Plan(
            added=tuple(self._added.values()),
            reinforced=tuple(self._said_again.values()),
            superseded=tuple(self._ended.values()),
            open=tuple(self._open),
        )

    def take(self, fact: Fact, near: Sequence[Candidate]) -> None:
        """Decide about one fact."""
        owner = fact.scope.owner
        facts = [(c.memory, c.score) for c in near if isinstance(c.memory, Fact)]
        known = [(other, score) for other, score in facts if other.scope.owner == owner]
        pairs = [*known, *((other, 0.0) for other in self._added.values())]
        related = [(self._relation(other, fact, score), other) for other, score in pairs]
        if twin := next((other for what, other in related if what == "same" and self._covers(other, fact)), None):
            self._say_again(twin, fact)
            return
        self._added[fact.id] = fact
        for what, other in related:
            if what == "conflict":
                self._end(other, fact)
            elif what == "open" and self._holds(other, fact.at):
                self._open.append((other, fact))

    def _relation(self, known: Fact, fact: Fact, score: float) -> Relation:
        found = _relation(known, fact, score)
        if found != "open":
            return found
        match self._verdicts.get((known.id, fact.id)):
            case "same":
                return "same" if _may_be_same(_gist(known.text, known.at), _gist(fact.text, fact.at)) else "none"
            case "replaces":
                return "conflict"
            case "both":
                return "none"
        return "open"

    def _covers(self, known: Fact, fact: Fact) -> bool:
        """Whether a known fact held when the new one was said, and lasts as long."""
        lasts = known.expires_at is None or (fact.expires_at is not None and fact.expires_at <= known.expires_at)
        return lasts and self._holds(known, fact.at)

    def _holds(self, known: Fact, at: datetime) -> bool:
        until = self._ended[known.id].valid_to if known.id in self._ended else known.valid_to
        return until is None or at < until

    def _say_again(self, known: Fact, fact: Fact) -> None:
        if known.id in self._added:
            turn_ids = tuple(dict.fromkeys((*self._added[known.id].turn_ids, *fact.turn_ids)))
            self._added[known.id] = msgspec.structs.replace(self._added[known.id], turn_ids=turn_ids)
            return
        before = self._said_again.get(known.id)
        turn_ids = tuple(dict.fromkeys((*(before.turn_ids if before else ()), *fact.turn_ids)))
        if not set(turn_ids) <= set(known.turn_ids):
            self._said_again[known.id] = Reinforcement(fact_id=known.id, turn_ids=turn_ids, at=fact.at)

    def _end(self, known: Fact, fact: Fact) -> None:
        """Let the older of two that exclude each other end when the newer was said; of one time, the known."""
        older, newer = (known, fact) if self._when(known) <= self._when(fact) else (fact, known)
        before = self._ended.get(older.id)
        until = before.valid_to if before else older.valid_to
        if newer.at >= older.at and (until is None or newer.at < until):
            self._ended[older.id] = Supersession(
                fact_id=older.id, valid_to=newer.at, by=newer.id, cause="contradiction"
            )

    def _when(self, fact: Fact) -> datetime:
        """From when on a fact holds: since it was said, or the day that it names if that is earlier."""
        days = [start for start, _ in _gist(fact.text, fact.at).days]
        key = _gist(fact.text, fact.at).key
        if key and not key.attribute.startswith("when") and days and min(days) < fact.at.date():
            first = min(days)
            return fact.at.replace(year=first.year, month=first.month, day=first.day)
        return fact.at


@lru_cache(maxsize=4096)
def _gist(text: str, at: datetime) -> _Gist:
    text, dates = bare(text, at)
    stems = tuple(stem("like") if word in LIKES else word for word in content(text))
    return _Gist(
        stems=stems,
        numbers=frozenset(numbers(text)),
        days=frozenset((found.start, found.end) for found in dates),
        names=frozenset(names(text)),
        is_denied=is_negated(text),
        is_planned=bool(_UNSAID.search(normal(text))),
        key=key_of(text, dates),
    )


def _relation(old: Fact, fact: Fact, score: float) -> Relation:
    """How a new fact stands to a known one, as far as rules tell."""
    if _are_namesakes(old, fact):
        return "none"
    known, new = _gist(old.text, old.at), _gist(fact.text, fact.at)
    if known.words == new.words and known.numbers == new.numbers and _in_order(known, new):
        if known.is_denied != new.is_denied:
            return "conflict"
        if new.days <= known.days and new.key == known.key and new.is_planned == known.is_planned:
            return "same"
    found = _by_keys(known, new, has_moved=_tells_of_move(old, fact))
    if found is None:
        return _by_words(known, new, fact, score)
    is_end = any(gist.key and gist.key.ends for gist in (known, new))  # who leaves Acme is who worked there
    return "open" if found == "conflict" and not is_end and _may_be_namesakes(old, fact) else found


def _are_namesakes(known: Fact, fact: Fact) -> bool:
    """Whether two people have one name: the sister Ann and the boss Ann."""
    name = _told_of(known)
    if not name or name != _told_of(fact):
        return False
    one, other = _whose(known, name), _whose(fact, name)
    return bool(one and other) and one != other


def _may_be_namesakes(known: Fact, fact: Fact) -> bool:
    """Whether others speak of a name, and nothing in the later words tells that it became otherwise."""
    later = max(known, fact, key=lambda f: f.at)
    return bool(_told_of(known) and _told_of(fact)) and not _CHANGING.search(normal(f"{later.text} {later.quote}"))


def _told_of(fact: Fact) -> str:
    """The name that a statement begins with, where the speaker spoke of it; of oneself one says "I"."""
    return _spoken_name(fact.text, fact.quote)


@lru_cache(maxsize=4096)
def _spoken_name(text: str, quote: str) -> str:
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    name = plain(first)
    if not (first.isalpha() and first.istitle()) or name in _NO_NAMES:
        return ""
    said = f" {plain(quote)} "
    is_speaker = re.search(rf" (?:im|i am|me|name is|this is) {name} ", said)
    return name if f" {name} " in said and not is_speaker else ""


def _whose(fact: Fact, name: str) -> str | None:
    """What somebody is to the speaker, as far as the quote tells: "my sister Ann", "Ann is my sister"."""
    mine = rf"\b(?:my|our) (?:\w+ )?({RELATION})"
    said = re.search(rf"{mine} {name}\b|\b{name} (?:is )?{mine}\b", plain(fact.quote))
    relation = stem(said[1] or said[2]) if said else None
    return None if relation in _BESIDES else relation


def _by_words(known: _Gist, new: _Gist, fact: Fact, score: float) -> Relation:
    """What the words tell of facts that have no keys to compare."""
    if score >= SAME_COSINE and new.words <= known.words and _may_be_same(known, new):
        return "same"
    if not known.stems or known.stems[:1] != new.stems[:1]:
        return "none"
    if _corrects(known, new, fact):
        return "conflict"
    shared = len(known.words & new.words)
    is_near = score >= OPEN_COSINE and shared >= _MIN_SHARED * min(len(known.words), len(new.words))
    return "open" if is_near else "none"


def _in_order(known: _Gist, new: _Gist) -> bool:
    """Whether names stand in the same order: "Ann told Ben" is not "Ben told Ann"."""
    named = known.names | new.names
    return [w for w in known.stems if w in named] == [w for w in new.stems if w in named]


def _may_be_same(known: _Gist, new: _Gist) -> bool:
    """Whether nothing that counts differs."""
    return (
        new.numbers <= known.numbers
        and new.days <= known.days
        and new.names <= known.names | known.words
        and new.is_denied == known.is_denied
        and new.is_planned == known.is_planned
        and _in_order(known, new)
    )


def _by_keys(known: _Gist, new: _Gist, *, has_moved: bool) -> Relation | None:
    """What the keys tell, None where they tell nothing."""
    if not (known.key and new.key):
        return None
    if known.key.subject != new.key.subject:
        return "none"
    one, other = known.key, new.key
    if one.attribute != other.attribute:
        return _by_end(one, other)
    if one.is_denied != other.is_denied:
        return _by_denial(one, other)
    if one.value == other.value or (one.is_single and other.value < one.value):
        more = new.words - known.words - _ABOUT_KEYS
        says_more = more or new.days - known.days or new.numbers - known.numbers or new.is_planned != known.is_planned
        return "none" if says_more else "same"
    return _by_values(one, other, has_moved=has_moved)


def _tells_of_move(one: Fact, other: Fact) -> bool:
    """Whether what was said later tells that somebody lives elsewhere since, and not only where in a place."""
    earlier, later = sorted((one, other), key=lambda fact: fact.at)
    text = f"{later.text} {later.quote}"
    if _MOVING.search(normal(text)):
        return True
    if not _SINCE.search(normal(text)):
        return False
    days = find_dates(text, later.at)
    return not days or max(day.start for day in days) > earlier.at.date()


def _by_denial(one: Key, other: Key) -> Relation:
    """Whether one of two denies the other: who does not like green tea may like tea."""
    denied, held = (one, other) if one.is_denied else (other, one)
    is_meant = denied.value <= held.value or (held.is_single and held.value <= denied.value)
    return "conflict" if is_meant else "none"


def _by_values(one: Key, other: Key, *, has_moved: bool) -> Relation | None:
    """Whether different values of one attribute exclude each other.

    A place and a kind of place do not, and a home may lie in the other: who lives in Kreuzberg lives in Berlin. That is
    left open unless the words tell of a move, or both are known to be cities, or countries. How much later it was said
    tells nothing: people name now the part and now the whole.
    """
    is_count = one.attribute in _OWNED and one.is_counted and other.is_counted
    if is_count and all(word.isdigit() for word in one.value ^ other.value):
        return None
    if not (one.is_single and other.is_single) or one.is_denied or one.value < other.value:
        return "none"
    if one.attribute not in _NAMED:
        return "conflict"
    if one.names <= other.names or other.names <= one.names:
        return None
    is_elsewhere = one.attribute != "home" or has_moved or are_apart(one.names, other.names)
    return "conflict" if is_elsewhere else "open"


def _by_end(one: Key, other: Key) -> Relation | None:
    """Whether one of two says that what the other says is over."""
    ended, held = (one, other) if one.ends else (other, one)
    if not ended.ends:
        return "none" if one.is_single or other.is_single else None
    is_over = held.attribute in ended.ends and not held.is_denied and ended.value <= held.value
    return "conflict" if is_over else "none"


def _corrects(known: _Gist, new: _Gist, fact: Fact) -> bool:
    """Whether the words that were said put something else in the place of what is known."""
    said = normal(fact.quote)
    if not _CORRECTING.search(said) or _ADDING.search(said):
        return False
    ours, theirs = new.words | new.numbers, known.words | known.numbers
    replaced = max(len(ours - theirs), len(theirs - ours)), min(len(ours - theirs), len(theirs - ours))
    return bool(replaced[1]) and replaced[0] <= _MOST_REPLACED and len(ours & theirs) >= _MOST_REPLACED
