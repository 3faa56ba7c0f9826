"""The benchmark on LoCoMo reads its files and scores what was found; the data itself is not here."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import __main__ as command_line
from benchmarks.locomo_data import Question, Said, coverage, marks, mean, read
from benchmarks.runner import installed_version

if TYPE_CHECKING:
    from pathlib import Path

CONVERSATION: dict[str, Any] = {
    "sample_id": "made-up",
    "conversation": {
        "speaker_a": "Ann",
        "session_10_date_time": "9:05 am on 12 June, 2023",
        "session_10": [{"speaker": "Bob", "dia_id": "D10:1", "text": "My tulips died."}],
        "session_2_date_time": "1:56 pm on 8 May, 2023",
        "session_2": [
            {"speaker": "Ann", "dia_id": "D2:1", "text": "What do you grow?"},
            {"speaker": "Bob", "dia_id": "D2:2", "text": "I planted these yesterday.", "blip_caption": "yellow tulips"},
        ],
        "session_11_date_time": "9:05 am on 13 June, 2023",
    },
    "qa": [
        {"question": "When did Bob plant tulips?", "answer": "7 May 2023", "evidence": ["D2:02"], "category": 2},
        {"question": "Which of Bob's plants died?", "answer": "tulips", "evidence": ["D2:2; D10:1"], "category": 1},
        {"question": "Who is Carl?", "adversarial_answer": "Ann", "evidence": ["D2:1"], "category": 5},
        {"question": "Is there evidence?", "answer": 2022, "evidence": ["D77:1"], "category": 3},
    ],
    "observation": {"session_2_observation": {"Bob": [["Bob grows tulips.", "D2:2"], ["Bob is gone.", ["D9:1"]]]}},
}


def test_a_conversation_is_read() -> None:
    """Sessions are in order, captions are text, and what names no turn is left out."""
    found = read(CONVERSATION)
    assert [session.at for session in found.sessions] == [
        datetime(2023, 5, 8, 13, 56, tzinfo=UTC),
        datetime(2023, 6, 12, 9, 5, tzinfo=UTC),
    ]
    assert found.sessions[0].turns[1] == Said("D2:2", "Bob", "I planted these yesterday. [photo: yellow tulips]")
    assert found.questions == (
        Question("When did Bob plant tulips?", "7 May 2023", frozenset({"D2:2"})),
        Question("Which of Bob's plants died?", "tulips", frozenset({"D2:2", "D10:1"})),
        Question("Who is Carl?", None, frozenset({"D2:1"})),
    )
    assert found.observations == (("Bob grows tulips.", ("D2:2",)),)


def test_marks_are_shares_of_the_evidence() -> None:
    """A hit may tell several turns; what comes again counts once."""
    found = [frozenset({turn}) for turn in "xyzabcdefg"]
    assert marks(found, frozenset("ag")) == {"r_at_5": 0.5, "r_at_10": 1, "r_at_20": 1, "mrr": 0.25}
    assert marks([frozenset("ab"), frozenset("a")], frozenset("ab")) == pytest.approx(
        {"r_at_5": 1, "r_at_10": 1, "r_at_20": 1, "mrr": 1}
    )
    assert set(marks([], frozenset("a")).values()) == {0}
    assert mean([marks(found, frozenset("x")), marks(found, frozenset("y"))], "p_")["p_mrr"] == 0.75


@pytest.mark.parametrize(
    ("answer", "text", "share"),
    [
        ("The tulips, and roses", "Tulips!", 0.5),
        ("7 May 2023", "on 7 May 2024", 2 / 3),
        ("the", "of the", 1),
        ("", "x", 1),
        ("rose", "roses", 0),
    ],
)
def test_an_answer_is_covered_by_its_words(answer: str, text: str, share: float) -> None:
    """Whole words in any case; small ones count only where there are no others."""
    assert coverage(answer, text) == share


def test_the_benchmark_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without data no contender has figures, and each says how to give them."""
    monkeypatch.delenv("LOCOMO_PATH", raising=False)
    assert command_line.main(["locomo", "--json", "--case", "dates"]) == 1
    (entry,) = json.loads(capsys.readouterr().out)["contenders"]
    assert "give --data PATH, or set LOCOMO_PATH" in entry["failure"]


@pytest.mark.skipif(installed_version("wordllama") is None, reason="needs the extra `engine`")
@pytest.mark.parametrize("is_argument", [True, False])
def test_the_benchmark_asks_a_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_argument: bool,  # noqa: FBT001 - a parameter
) -> None:
    """All of a tiny conversation is found, its facts tell their turns, and the prompt has the answers."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps([CONVERSATION]))
    monkeypatch.setenv("LOCOMO_PATH", "nowhere" if is_argument else os.fspath(path))
    data = ["--data", os.fspath(path)] if is_argument else []
    assert command_line.main(["locomo", "--json", "--case", "engine", "--case", "dates", *data]) == 0
    report = json.loads(capsys.readouterr().out)
    engine, dates = (entry["median"] for entry in report["contenders"])
    assert engine["questions"] == 3
    assert engine["r_at_5"] == engine["runs_r_at_5"] == engine["facts_r_at_5"] == 1
    assert engine["context_answer_coverage"] == 1
    assert engine["bm25_r_at_5"] < 1
    assert dates["temporal_exact"] == 1
    assert report["bars"]["engine_r_at_10"] == 1
    assert report["bars"]["minilm_r_at_10"] is None
