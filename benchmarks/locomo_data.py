"""LoCoMo's conversations, read from its JSON file, and how well what was found answers its questions. Pure.

LoCoMo's data is not part of this project: github.com/snap-research/locomo, data/locomo10.json, licence CC BY-NC 4.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CUTS = (5, 10, 20)
_ADVERSARIAL = 5
_TIME = "%I:%M %p on %d %B, %Y"
_SMALL_WORDS = {
    "a",
    "an",
    "and",
    "the",
    "of",
    "to",
    "in",
    "on",
    "at",
    "for",
    "with",
    "is",
    "was",
    "her",
    "his",
    "their",
}


@dataclass(frozen=True, slots=True)
class Said:
    """A turn of a conversation by its name in LoCoMo, such as D1:3; a photo is told by its caption."""

    name: str
    speaker: str
    text: str


@dataclass(frozen=True, slots=True)
class Session:
    """What was said at one time."""

    at: datetime
    turns: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer where it has one, and the turns that hold it."""

    text: str
    answer: str | None
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Sessions in the order of their times, questions with evidence, and statements with the turns they come from."""

    name: str
    sessions: tuple[Session, ...]
    questions: tuple[Question, ...]
    observations: tuple[tuple[str, tuple[str, ...]], ...]


def read(conversation: Mapping[str, Any]) -> Conversation:
    """Read a conversation as LoCoMo's file holds it; questions whose evidence is not in it are left out."""
    sessions = tuple(_sessions(conversation["conversation"]))
    names = {turn.name for session in sessions for turn in session.turns}
    asked = (
        Question(
            qa["question"],
            None if qa["category"] == _ADVERSARIAL else str(qa.get("answer", "")),
            frozenset(_names(qa.get("evidence", ()))) & names,
        )
        for qa in conversation["qa"]
    )
    return Conversation(
        conversation.get("sample_id", ""),
        sessions,
        tuple(question for question in asked if question.evidence),
        tuple(_observations(conversation.get("observation", {}), names)),
    )


def _sessions(conversation: Mapping[str, Any]) -> Iterator[Session]:
    found = (re.fullmatch(r"session_(\d+)", key) for key in conversation)
    for number in sorted(int(match[1]) for match in found if match):
        turns = conversation[f"session_{number}"]
        at = datetime.strptime(conversation[f"session_{number}_date_time"], _TIME).replace(tzinfo=UTC)
        yield Session(at, tuple(Said(turn["dia_id"], turn["speaker"], _text(turn)) for turn in turns))


def _text(turn: Mapping[str, Any]) -> str:
    caption = turn.get("blip_caption")
    return f"{turn['text']} [photo: {caption}]" if caption else str(turn["text"])


def _observations(sessions: Mapping[str, Any], names: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for speakers in sessions.values():
        for statements in speakers.values():
            for text, evidence in statements:
                turns = _names([evidence] if isinstance(evidence, str) else evidence)
                if known := tuple(turn for turn in turns if turn in names):
                    yield text, known


def _names(evidence: Iterable[str]) -> list[str]:
    """The turns that are named, some of them several to a string and with zeros in front."""
    return [f"D{int(s)}:{int(t)}" for text in evidence for s, t in re.findall(r"D(\d+):(\d+)", text)]


def marks(found: Sequence[frozenset[str]], evidence: frozenset[str]) -> dict[str, float]:
    """Score hits, best first, each as the turns that it tells: `r_at_K` is the share of the evidence in the first K.

    `mrr` is one divided by the place of the first that tells any of it.
    """
    place = next((place for place, turns in enumerate(found, 1) if turns & evidence), None)
    recalls = {f"r_at_{cut}": len(evidence.intersection(*[frozenset().union(*found[:cut])])) for cut in CUTS}
    return {**{name: count / len(evidence) for name, count in recalls.items()}, "mrr": 1 / place if place else 0.0}


def coverage(answer: str, text: str) -> float:
    """The share of an answer's words, less small ones, that a text has."""
    words = _words(answer) - _SMALL_WORDS or _words(answer)
    return len(words & _words(text)) / len(words) if words else 1.0


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.lower()))


def mean(rows: Sequence[Mapping[str, float]], prefix: str = "") -> dict[str, float]:
    """The mean of each figure."""
    return {f"{prefix}{name}": fmean(row[name] for row in rows) for name in (rows[0] if rows else ())}
