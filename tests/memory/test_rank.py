"""The ranking: each sign of a fit counts, scores can be compared, and the order is one whatever comes in."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.memory.query import Query, read_query
from ollama_async_mem.memory.rank import rank, shortlist, speakers
from ollama_async_mem.memory.weights import RankingWeights
from ollama_async_mem.records import Candidate, DateRange, Fact, Hit, MemoryRecord, Scope, Turn

if TYPE_CHECKING:
    import random

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def turn(number: int, text: str, *, speaker: str | None = None, at: datetime = NOW, **values: Any) -> Turn:
    """A turn; those of one time come by their numbers."""
    return Turn(
        id=f"t{number}", scope=Scope("u"), role="user", speaker=speaker, text=text, at=at, created_at=NOW, **values
    )


def fact(number: int, text: str, *sources: Turn) -> Fact:
    """A fact that is drawn from some turns."""
    ids = tuple(source.id for source in sources)
    return Fact(id=f"f{number}", scope=Scope("u"), text=text, at=NOW, created_at=NOW, quote="", turn_ids=ids)


def similar(*memories: MemoryRecord, cosine: float = 0.4) -> list[Candidate]:
    """Candidates whose vectors are all as near."""
    return [Candidate(memory, cosine) for memory in memories]


def ranked(query: str | Query, *memories: MemoryRecord, **options: Any) -> tuple[Hit, ...]:
    """The ranking of memories that only their texts tell apart, and that were found by both indexes."""
    asked = read_query(query, now=NOW) if isinstance(query, str) else query
    neighbours = options.pop("neighbours", {})
    options = {"now": NOW, "limit": 100, "explain": True, **options}
    return rank(asked, similar(*memories), similar(*memories), neighbours, **options)


def ids(hits: tuple[Hit, ...]) -> list[str]:
    """The ids of hits, in order."""
    return [hit.id for hit in hits]


def test_the_rarer_word_counts_more() -> None:
    """Of two words the one that few memories have tells more, in whatever form it comes."""
    many = [turn(n, "We have a dog.") for n in range(5)]
    hits = ranked("dogs painted?", *many, turn(7, "I am painting."), turn(8, "A painter's dog."), turn(9, "Nothing."))
    assert ids(hits)[:2] == ["t8", "t7"]
    assert ids(hits)[-1] == "t9"
    assert hits[0].parts["keyword"] == pytest.approx(RankingWeights().words)


def test_who_is_nearer_by_vector_is_first() -> None:
    """With the same words, and also with none; what no vector was near to comes last."""
    near, far, words = turn(1, "x"), turn(2, "y"), turn(3, "z")
    dense = [Candidate(far, 0.2), Candidate(near, 0.5)]
    hits = rank(read_query("q", now=NOW), dense, similar(words), {}, now=NOW, limit=5)
    assert ids(hits) == ["t1", "t2", "t3"]
    assert hits[0].parts == {}


def test_what_was_said_before_lends_its_words() -> None:
    """An answer is found by the words of its question, and the other way round by less."""
    asked, answer, other = turn(1, "Do you paint?"), turn(2, "Yes, every day."), turn(3, "So do I.")
    around = {"t2": [asked, other]}
    hits = ranked("painting", answer, turn(9, "No."), neighbours=around)
    assert ids(hits)[:2] == ["t2", "t1"]
    parts = {hit.id: hit.parts for hit in hits}
    assert parts["t2"]["keyword"] == 0
    assert parts["t2"]["neighbours"] > 1
    assert parts["t3"]["neighbours"] > 0
    assert parts["t9"]["neighbours"] == 0
    backwards = ranked("answers", turn(1, "Well?"), neighbours={"t1": [turn(2, "An answer.")]})
    assert 0 < next(hit for hit in backwards if hit.id == "t1").parts["neighbours"] < parts["t2"]["neighbours"]


def test_what_was_said_long_before_does_not() -> None:
    """A turn of another conversation is no neighbour, but may be a hit itself."""
    old = turn(1, "Do you paint?", at=NOW - DAY)
    hits = {hit.id: hit for hit in ranked("painting", turn(2, "Yes."), neighbours={"t2": [old]})}
    assert hits["t2"].parts["neighbours"] == 0
    assert hits["t1"].parts["keyword"] > 0


def test_neighbours_are_hits_unless_a_filter_would_not_have_them() -> None:
    """Without `widen` only candidates are, whose neighbours count all the same."""
    around = {"t2": [turn(1, "Do you paint?")]}
    narrow = ranked("painting", turn(2, "Yes."), neighbours=around, widen=False)
    wide = ranked("painting", turn(2, "Yes."), neighbours=around)
    assert (ids(narrow), ids(wide)) == (["t2"], ["t2", "t1"])
    assert narrow[0] == wide[0]


def test_neighbours_of_what_was_not_found_do_no_harm() -> None:
    """They are ranked like others."""
    assert ids(ranked("painting", turn(2, "No."), neighbours={"gone": [turn(1, "I paint.")]})) == ["t1", "t2"]


def test_who_is_named_has_said_it_or_is_in_the_fact() -> None:
    """A boost and no filter: others that fit better are before."""
    anna, bob = turn(1, "I paint.", speaker="Anna Lee"), turn(2, "I paint.", speaker="Bob")
    query = read_query("What does Anna paint?", now=NOW).about(speakers(similar(anna, bob)))
    about, better = fact(3, "Anna paints."), turn(4, "We paint and paint what Bob likes.", speaker="Bob")
    hits = ranked(query, bob, anna, about, better)
    assert [hit.parts["speaker"] > 0 for hit in sorted(hits, key=lambda hit: hit.id)] == [True, True, False, False]
    assert ids(hits).index("t1") < ids(hits).index("t2")
    assert ids(ranked(query, turn(5, "Hm.", speaker="Anna Lee"), bob))[0] == "t2"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("I paint.", 1),
        ("Do you paint?", 0),
        ("Nice! Do you?", pytest.approx(4 / 11)),
        ("你画画吗\uff1f", 0),
        ("Really?! Wow.", pytest.approx(4 / 10)),
        ("What? [photo: a dog]", pytest.approx(15 / 19)),
        ("???", 1),
        ("\n?\n", 1),
    ],
)
def test_who_asks_does_not_tell(text: str, share: float) -> None:
    """Only the part of a text that is no question counts as told."""
    (hit,) = ranked("x", turn(1, text), weights=RankingWeights(statement=1.0))
    assert hit.parts["statement"] == share
    (told,) = ranked("x", fact(1, text), weights=RankingWeights(statement=1.0))
    assert told.parts["statement"] == 1


def test_days_that_are_named_count() -> None:
    """That it was said on them, or names them; and any days where the query asks when."""
    in_may = DateRange(date(2023, 5, 1), date(2023, 5, 31), "month", "last month", (0, 10))
    there = turn(1, "We met.", at=datetime(2023, 5, 8, tzinfo=UTC))
    named = turn(2, "We met.", at=datetime(2023, 6, 8, tzinfo=UTC), dates=(in_may,))
    other = turn(3, "We met.", at=datetime(2023, 7, 8, tzinfo=UTC))
    hits = {hit.id: hit.parts["dates"] for hit in ranked("Who met in May 2023?", there, named, other)}
    assert hits["t1"] == hits["t2"] > hits["t3"] == 0
    when = {hit.id: hit.parts["dates"] for hit in ranked("When did they meet?", there, named, other)}
    assert when["t2"] > when["t1"] == when["t3"] == 0
    assert {hit.parts["dates"] for hit in ranked("Who met in 2023?", there, named, other)} == {0}


def test_what_is_recent_counts_where_that_is_asked_for() -> None:
    """By half after each half-life, and nothing by default."""
    old, new = turn(1, "a", at=NOW - 30 * DAY), turn(2, "a", at=NOW + DAY)
    hits = ranked("x", old, new, weights=RankingWeights(recency=0.4))
    assert [hit.parts["recency"] for hit in hits] == [0.4, pytest.approx(0.2)]
    assert [hit.parts["recency"] for hit in ranked("x", old, new)] == [0, 0]


def test_a_fact_and_its_turn_are_one_hit() -> None:
    """The better of both stays and the other is left out; each lends the other its words."""
    source, other = turn(1, "I went there yesterday."), turn(2, "I went.")
    told = fact(1, "Anna visited a museum.", source)
    assert ids(ranked("museum", source, other, told)) == ["f1", "t2"]
    assert ids(ranked("museum yesterday went there", source, other, told)) == ["t1", "t2"]
    assert ids(ranked("museum", source, other)) == ["t2", "t1"]


def test_a_fact_that_was_said_often_hides_none_of_its_turns() -> None:
    """Each of them had other words around it. A fact all of whose turns came before is left out."""
    sources = [turn(n, "I paint.") for n in range(4)]
    told = fact(1, "Anna paints dogs.", *sources)
    assert set(ids(ranked("dogs", *sources, told))) == {"f1", "t0", "t1", "t2", "t3"}
    vague = fact(2, "Hm.", *sources)
    assert set(ids(ranked("paint", *sources, vague))) == {"t0", "t1", "t2", "t3"}


def test_without_vectors_the_words_still_score() -> None:
    """The score of what fits is hardly less than with them."""
    fits, other = turn(1, "I paint a dog."), turn(2, "No.")
    query = read_query("paint dog", now=NOW)
    hits = rank(query, [], similar(fits, other), {}, now=NOW, limit=5)
    assert ids(hits) == ["t1", "t2"]
    assert hits[0].score > 0.8
    assert hits[1].score < 0.2


def test_scores_can_be_compared_between_queries() -> None:
    """What fits has a high score, alone or among others; the best of what does not has a low one."""
    memories = [turn(n, text) for n, text in enumerate(("I paint dogs.", "My car is red.", "We ate soup.", "Hello!"))]
    fits = ranked("Who paints dogs?", *memories)
    unfit = ranked("What does the physicist teach?", *memories)
    assert fits[0].score > 0.85
    assert max(hit.score for hit in unfit) < 0.25
    assert ranked("Who paints dogs?", memories[0])[0].score > 0.75
    assert ranked("What does the physicist teach?", memories[0])[0].score < 0.25


def test_a_smallest_score_leaves_the_rest_out() -> None:
    """Those of that score and above stay, in the same order."""
    memories = [turn(n, text) for n, text in enumerate(("I paint dogs.", "I paint.", "Hello!"))]
    hits = ranked("Who paints dogs?", *memories)
    assert ranked("Who paints dogs?", *memories, min_score=hits[1].score) == hits[:2]
    assert ranked("Who paints dogs?", *memories, min_score=1.0) == ()
    assert ranked("Who paints dogs?", *memories, limit=1) == hits[:1]


def test_parts_add_up_to_the_score() -> None:
    """The score is a logistic function of their sum."""
    weights = RankingWeights(recency=0.1)
    query = read_query("When did Anna paint in May?", now=NOW).about({"Anna"})
    around = {"t1": [turn(2, "Do you paint?", speaker="Bob")]}
    for hit in ranked(query, turn(1, "In May, I did.", speaker="Anna"), neighbours=around, weights=weights):
        total = sum(hit.parts.values())
        assert hit.score == pytest.approx(1 / (1 + math.exp(weights.slope * (weights.middle - total))))
        assert list(hit.parts) == ["dense", "keyword", "neighbours", "speaker", "statement", "dates", "recency"]


def test_nothing_is_ranked_as_nothing() -> None:
    """Without candidates there is no hit, and no memory fits an empty query by its words."""
    assert rank(read_query("x", now=NOW), [], [], {}, now=NOW, limit=5) == ()
    assert ranked("", turn(1, "x"))[0].parts["keyword"] == 0
    assert shortlist([], []) == []
    assert speakers([]) == set()


def test_of_equals_the_newest_is_first() -> None:
    """And of those of one time that with the last id."""
    memories = [turn(1, "x", at=NOW - DAY), turn(2, "x"), turn(3, "x")]
    assert ids(ranked("y", *memories)) == ["t3", "t2", "t1"]


def test_the_shortlist_has_the_best_turns_of_both_lists() -> None:
    """Those that both have come first; facts have no neighbours."""
    a, b, c = (turn(n, "x") for n in range(3))
    dense = [Candidate(fact(1, "x"), 0.9), Candidate(a, 0.8), Candidate(b, 0.7)]
    keyword = [Candidate(c, 9.0), Candidate(b, 8.0)]
    assert shortlist(dense, keyword) == ["t1", "t0", "t2"]
    assert shortlist(dense, keyword, limit=1) == ["t1"]


def test_a_long_text_costs_no_more_than_its_beginning() -> None:
    """Words far behind do not count."""
    (hit,) = ranked("dog", turn(1, "word " * 200_000 + "dog?"))
    assert (hit.parts["keyword"], hit.parts["statement"]) == (0, RankingWeights().statement)


TEXTS = st.lists(st.sampled_from(["paint", "a dog", "Anna?", "in May", "好き", "", "so\nwhat!"]), max_size=5).map(
    " ".join
)
SCORES = st.floats(-1.5, 1.5) | st.just(math.nan) | st.just(math.inf)
CASES = st.lists(st.tuples(TEXTS, SCORES, SCORES, st.sampled_from(["Anna", None]), st.integers(0, 3)), max_size=12)


@given(CASES, TEXTS, st.randoms(use_true_random=False), st.integers(1, 5))
def test_any_candidates_have_one_order(cases: list[Any], asked: str, mix: random.Random, limit: int) -> None:
    """Whatever the scores are and in whatever order they come: scores fall from 1 to 0, and nobody is there twice."""
    turns = [
        turn(n, text, speaker=who, at=NOW + hour * timedelta(minutes=40))
        for n, (text, *_, who, hour) in enumerate(cases)
    ]
    facts = [fact(n, text, turns[n // 2]) for n, (text, *_) in enumerate(cases[:4])]
    mixed: list[MemoryRecord] = [*turns[:6], *facts]
    dense = [Candidate(m, case[1]) for m, case in zip(mixed, [*cases[:6], *cases[:4]], strict=True)]
    keyword = [Candidate(m, case[2]) for m, case in zip(turns[3:], cases[3:], strict=True)]
    query = read_query(asked, now=NOW).about(speakers(keyword))
    around = {m.id: [t for t in turns[max(0, n - 1) : n + 2] if t.id != m.id] for n, m in enumerate(turns[:5])}
    hits = rank(query, dense, keyword, around, now=NOW, limit=99, explain=True)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert all(math.isfinite(part) for hit in hits for part in hit.parts.values())
    assert len({hit.id for hit in hits}) == len(hits)
    assert bool(hits) == bool(cases)
    for each in (dense, keyword):
        mix.shuffle(each)
    assert rank(query, dense, keyword, around, now=NOW, limit=99, explain=True) == hits
    few = rank(query, dense, keyword, around, now=NOW, limit=limit)
    assert [(hit.id, hit.score) for hit in few] == [(hit.id, hit.score) for hit in hits[:limit]]


@given(st.sampled_from(RankingWeights.__struct_fields__), st.sampled_from([0.0, 1e-9, 1.0, 1e6]))
def test_any_weights_rank(name: str, value: float) -> None:
    """None of them alone makes a score that is no number."""
    weights = msgspec.structs.replace(RankingWeights(recency=0.1), **{name: max(value, 1e-9)})
    hits = ranked("When does Anna paint?", turn(1, "I paint"), turn(2, "No?", at=NOW - DAY), weights=weights)
    assert len(hits) == 2
    assert all(0 <= hit.score <= 1 for hit in hits)
