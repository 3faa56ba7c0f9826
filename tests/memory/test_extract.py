"""What a model is asked for, and what it may answer."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.errors import ModelOutputError
from ollama_async_mem.events import FactRejected
from ollama_async_mem.memory.context import tokens
from ollama_async_mem.memory.extract import (
    PORTION_TOKENS,
    Extraction,
    Statement,
    left_out,
    portions,
    read_facts,
    read_verdicts,
)
from ollama_async_mem.memory.prompts import (
    MOST_TOKENS,
    extraction_messages,
    repair_messages,
    verdict_messages,
    verdict_portions,
)
from ollama_async_mem.records import Fact, Scope, Turn, new_id

from .bench import bench, told
from .bench import turn as seen

if TYPE_CHECKING:
    from pathlib import Path

    from fakes import ScriptedOllama

FRIDAY = datetime(2023, 5, 12, 12, tzinfo=UTC)
ONE = '{"line": 1, "quote": "q", "text": "T."}'
TWO = '{"line": 2, "quote": "r", "text": "U."}'
T = Statement(1, "q", "T.")


def turn(text: str, speaker: str | None = None) -> Turn:
    """A turn of that Friday."""
    return Turn(id=new_id(), scope=Scope("u"), role="user", text=text, at=FRIDAY, created_at=FRIDAY, speaker=speaker)


def test_the_prompt_numbers_and_dates_the_lines() -> None:
    """The model sees each turn on one line, with its date, the days it names and its speaker."""
    turns = [turn("I like\ntea", "Ann\nLee"), turn("ok"), turn("we met last Friday", "Bob")]
    user = extraction_messages(turns, earlier=[turn("Do you?", "Bob")])[-1]["content"]
    assert user.splitlines()[1:] == [
        "Bob: Do you?",
        "The lines:",
        "[1] (2023-05-12) Ann Lee: I like tea",
        "[2] (2023-05-12) user: ok",
        "[3] (2023-05-12; last Friday = 2023-05-05) Bob: we met last Friday",
    ]


def test_the_prompt_is_short_and_its_examples_fit() -> None:
    """Under 1,500 tokens with its examples, whose answers can be read and stand in their lines."""
    messages = extraction_messages([])
    assert sum(tokens(m["content"]) for m in messages) < 1_500
    for shown, answer in zip(messages[1:-1:2], messages[2:-1:2], strict=True):
        facts = msgspec.json.decode(answer["content"], type=Extraction).facts
        assert all(fact.quote in shown["content"].splitlines()[fact.line - 1] for fact in facts)


def test_instructions_can_be_replaced_but_not_the_shape() -> None:
    """The caller says what to keep; how to answer stays."""
    system = extraction_messages([turn("x")], instructions="Only what is about food.")[0]["content"]
    assert system.startswith("Only what is about food.")
    assert '"quote"' in system
    assert "who people are" not in system


def test_a_repair_shows_what_was_wrong() -> None:
    """The answer and the error go back to the model, the answer cut to what fits."""
    messages = repair_messages([{"role": "user", "content": "x"}], ModelOutputError("no JSON", output="y" * 9_000))
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert len(messages[1]["content"]) == 2_000
    assert "no JSON" in messages[2]["content"]


def test_turns_are_portioned() -> None:
    """Every turn is in one portion, in order, and no portion is over the limit."""
    turns = [turn("word " * count) for count in (600, 500, 1, 700, 5)]
    parts = portions(turns)
    assert [t for part in parts for t in part] == turns
    assert [len(part) for part in parts] == [2, 1, 2] or len(parts) > 1
    assert all(sum(tokens(t.text) for t in part) <= PORTION_TOKENS for part in parts)
    assert portions([]) == []


@pytest.mark.parametrize("text", ["word " * 3_000, "x" * 15_000, "\u6211\u7231\u8336" * 3_000])
def test_a_long_turn_is_cut_between_words(text: str) -> None:
    """Its pieces are the turn's, and together its text."""
    long = turn(text)
    pieces = [piece for part in portions([long]) for piece in part]
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == text
    assert {piece.id for piece in pieces} == {long.id}
    assert all(tokens(piece.text) <= PORTION_TOKENS for piece in pieces)
    if " " in text:
        assert all(not piece.text.endswith("wor") for piece in pieces)


def test_a_huge_turn_takes_a_few_requests() -> None:
    """Of a megabyte only so much is read."""
    huge = turn("word " * 200_000)
    assert len(portions([huge])) == 12
    assert left_out([turn("ok"), huge, turn("word " * 3_000)]) == [huge]


async def test_what_is_left_out_is_told_and_counted(server: ScriptedOllama, tmp_path: Path) -> None:
    """Nobody need guess why the end of a long text is not known."""
    server.settings.answer = told({})
    async with bench(server, tmp_path / "m.db") as at:
        huge = seen("I like tea. " + "word " * 30_000)
        await at.add(huge)
        assert at.ingest.counts.rejected == {"too long": 1}
        assert at.told_of(FactRejected) == [FactRejected("too long", Scope("u"), (huge.id,))]


@pytest.mark.parametrize(
    "output",
    [
        f'{{"facts": [{ONE}]}}',
        f'```json\n{{"facts": [{ONE}]}}\n```',
        f'Sure, here you are:\n```\n{{"facts": [{ONE},]}}\n```\nAnything else?',
        f'<think>{{"facts": []}} or so</think>{{"facts": [{ONE}]}}',
        f'<think>hm, {{"facts": [{ONE}]}}',  # never closed
        f'so I think</think>\n{{"facts": [{ONE}]}}',  # never opened
        f'{{"memory": [{ONE}]}}',
        f'{{"memories": [{ONE}]}}',
        f"[{ONE}]",
        ONE,
        f'{{"facts": {ONE}}}',
        f'{{"facts": [{ONE}, {{"line": 2, "quote": "brok',
        f'{{"facts": [{ONE}, {{"li',
        f'According to [1]: {{"facts": [{ONE}]}} and {{more}}',
        '{"facts": [{"line": "1", "quote": "q", "fact": "T."}]}',
        '{"facts": [{"line": [1], "evidence": "q", "text": "T.", "confidence": 1}]}',
        f'{{"facts": [{ONE}, 5, null, {{"x": 1}}]}}',
    ],
)
def test_answers_are_read_however_they_are_dressed(output: str) -> None:
    """Fences, thoughts, prose, other keys, one object, and what is complete of an answer that broke off."""
    assert read_facts(output) == [T]


def test_plain_texts_are_statements_without_a_quote() -> None:
    """Some models answer with a list of texts."""
    assert read_facts('{"facts": ["T.", "U."]}') == [Statement(0, "", "T."), Statement(0, "", "U.")]
    assert read_facts(f"{ONE}\n{TWO}") == [T, Statement(2, "r", "U.")]


@pytest.mark.parametrize("output", ["{}", "[]", '{"facts": []}', '{"facts": null}', 'Nothing. {"facts": []}'])
def test_no_facts_is_an_answer(output: str) -> None:
    """A model may say that there is nothing to keep."""
    assert read_facts(output) == []


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("I could not find any.", "has no JSON"),
        ("<think> let me see", "has no JSON"),
        ('{"facts": "T."}', "has no JSON"),
        ('{"facts": [1, 2]}', "has no JSON"),
        ('{"facts": ["T.", "brok', "has no JSON"),
        ('{"type": "object", "properties": {"facts": {"type": "array"}}}', "has no JSON"),
        ('{"name": "delete_memories", "arguments": {"all": true}}', "has no JSON"),
        ("[" * 100_000, "has no JSON"),
        ("{" * 100_000, "has no JSON"),
        ('{"a":"' * 20_000, "has no JSON"),
    ],
)
def test_what_cannot_be_read_is_an_error(output: str, says: str) -> None:
    """It says what is wrong, keeps the answer, and takes no time to find out."""
    began = time.perf_counter()
    with pytest.raises(ModelOutputError, match=says) as caught:
        read_facts(output)
    assert caught.value.output == output
    assert time.perf_counter() - began < 0.5


@given(st.text(max_size=200) | st.text(alphabet='{}[]",:facts1 ', max_size=200))
def test_any_answer_is_read_or_refused(output: str) -> None:
    """Nothing but a ModelOutputError comes out, whatever goes in."""
    try:
        found = read_facts(output)
    except ModelOutputError:
        return
    assert all(isinstance(statement, Statement) for statement in found)


@given(st.lists(st.tuples(st.integers(0, 99), st.text(max_size=30), st.text(min_size=1, max_size=30)), max_size=8))
def test_what_is_complete_of_a_broken_answer_is_kept(facts: list[Any]) -> None:
    """Cut anywhere, an answer gives the first of its facts, or is refused."""
    whole = [Statement(*fact) for fact in facts]
    output = msgspec.json.encode(Extraction(whole)).decode()
    assert read_facts(output) == whole
    for cut in range(0, len(output), 7):
        try:
            found = read_facts(output[:cut])
        except ModelOutputError:
            continue
        assert found == whole[: len(found)]


def test_verdicts_are_read_alike() -> None:
    """Those that fit; others are left out."""
    output = '```{"verdicts": [{"pair": 1, "verdict": "same"}, {"pair": "2", "verdict": "replaces"}, {"pair": 3}]}```'
    assert [(v.pair, v.verdict) for v in read_verdicts(output)] == [(1, "same"), (2, "replaces")]
    with pytest.raises(ModelOutputError):
        read_verdicts("both, I guess")


def noted(text: str, quote: str, day: int = 0) -> Fact:
    """A fact that was said some days after that Friday."""
    at = FRIDAY + timedelta(days=day)
    return Fact(id=new_id(), scope=Scope("u"), text=text, at=at, created_at=at, quote=quote, turn_ids=("t",))


def test_pairs_are_numbered_with_their_evidence() -> None:
    """The model sees both with their days and the words that say them, the older first, whichever was known."""
    kreuzberg = noted("Mia lives in Kreuzberg.", "my flat\nin Kreuzberg")
    berlin = noted("Mia lives in Berlin.", "", 3)
    lines = (
        'older: [2023-05-12] Mia lives in Kreuzberg. said: "my flat in Kreuzberg"\n'
        "   newer: [2023-05-15] Mia lives in Berlin."
    )
    asked = verdict_messages([(kreuzberg, berlin), (berlin, kreuzberg)])[1]["content"]
    assert asked == f"1. {lines}\n2. {lines}"


@pytest.mark.parametrize(
    "text", ["I live in Rome.", "I live in a very long street. " * 20, "\u6211\u4f4f\u5728\u67cf\u6797" * 80]
)
def test_no_request_for_verdicts_is_too_long(text: str) -> None:
    """Pairs are shared between as few as hold them; notes and quotes of any length fit."""
    pairs = [(noted(text, text), noted(text, text, 1)) for _ in range(20)]
    portions = verdict_portions(pairs)
    assert [pair for portion in portions for pair in portion] == pairs
    sizes = [sum(tokens(message["content"]) for message in verdict_messages(portion)) for portion in portions]
    assert max(sizes) <= MOST_TOKENS
    assert all(size > MOST_TOKENS / 2 for size in sizes[:-1])
    assert verdict_portions([]) == []
