"""What a query asks for is read from its words: names, days, and words in all their forms."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.memory.dates import find_dates
from ollama_async_mem.memory.query import has_word, is_during, read_query, root

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "speakers", "embedded", "roots", "names"),
    [
        ("What did Anna research?", {"Anna", "Bob"}, "What did research?", ("research",), {"Anna"}),
        ("What are Anna\u2019s plans?", {"Anna"}, "What are plans?", ("plan",), {"Anna"}),
        ("Where did Anna meet Bob?", {"Anna", "Bob"}, "Where did meet ?", ("meet",), {"Anna", "Bob"}),
        ("what did anna research", {"Anna"}, "what did research", ("research",), {"Anna"}),
        ("Did Anna Lee move?", {"Anna Lee"}, "Did move?", ("mov",), {"Anna Lee", "Anna"}),
        ("Did Anna move?", {"Anna Lee"}, "Did move?", ("mov",), {"Anna"}),
        ("Anna, the banana", {"Anna"}, ", the banana", ("banana",), {"Anna"}),
        ("When will Will mark it?", {"Will", "Mark"}, "When will mark it?", ("mark",), {"Will"}),
        ("Where did Carol go?", {"Anna"}, "Where did Carol go?", ("carol", "go"), set()),
        ("Who is Anna?", {"Anna"}, "Who is Anna?", ("anna",), {"Anna"}),
        ("a+b?", {"a+b", "(", "x"}, "a+b?", ("b",), {"a+b"}),
    ],
)
def test_speakers_are_told_from_words(
    text: str, speakers: set[str], embedded: str, roots: tuple[str, ...], names: set[str]
) -> None:
    """The names of speakers are left out of what is embedded and looked for, unless nothing else is left."""
    query = read_query(text, now=NOW).about(speakers)
    assert (query.embedded, query.roots, query.names) == (embedded, roots, frozenset(names))


@pytest.mark.parametrize(
    ("text", "roots"),
    [
        ("what was it?", ("what", "was", "it")),
        ("the THE cats, cat", ("cat",)),
        ("", ()),
        ("?!", ()),
        ("東京 が好き", ("東京", "が好", "好き")),
    ],
)
def test_small_words_do_not_count_unless_there_are_no_others(text: str, roots: tuple[str, ...]) -> None:
    """Each root is there once; where no spaces are written, neighbouring characters are looked for."""
    assert read_query(text, now=NOW).roots == roots


@pytest.mark.parametrize(
    ("word", "texts", "others"),
    [
        ("running", ["we run", "a runner", "she runs", "run!"], ["the rung", "brunch", "prune"]),
        ("adopted", ["adopting a dog", "adoption", "to adopt", "(adopts)"], ["readopted"]),
        ("cats", ["a cat.", "my cat's toy"], ["category", "catalogue", "scat", "caterpillar"]),
        ("families", ["our family", "a family's"], ["famine"]),
        ("car", ["two cars", "car"], ["carpet", "scar", "cartoon"]),
        ("go", ["we go", "going"], ["gold", "ago", "goat"]),
        ("7", ["at 7", "7."], ["17", "70"]),
        ("use", ["it was used", "uses"], ["us", "useful"]),
        ("77", ["77好", "好77"], ["770"]),
        ("好き", ["寿司が好きです"], ["好"]),
    ],
)
def test_words_are_found_in_their_forms(word: str, texts: list[str], others: list[str]) -> None:
    """A word is found at the beginning of words, with an ending that makes it another form of the same."""
    assert [text for text in texts if not has_word(text, root(word))] == []
    assert [text for text in others if has_word(text, root(word))] == []


@given(st.text(alphabet="abing esy7?-好", min_size=1), st.text(alphabet="abing esy7?-好"))
def test_a_word_is_found_where_it_stands(word: str, rest: str) -> None:
    """Whatever is around it."""
    for each in read_query(word, now=NOW).roots:
        assert has_word(f"{rest} {word} {rest}".lower(), each)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("When did she move?", True),
        ("In which month was it?", True),
        ("how long ago was that", True),
        ("What did she do when it rained?", False),
        ("What is her date of choice?", False),
    ],
)
def test_who_asks_when_is_told_days(text: str, when: bool) -> None:  # noqa: FBT001 - a parameter
    """Only a question for a time is one."""
    assert read_query(text, now=NOW).asks_when is when


@pytest.mark.parametrize(
    ("text", "days", "expected"),
    [
        ("in May 2023", (2023, 5, 31), True),
        ("in May 2023", (2024, 5, 31), False),
        ("in May", (2019, 5, 1), True),
        ("in May", (2019, 6, 1), False),
        ("on October 31", (2022, 10, 31), True),
        ("on October 31", (2022, 10, 28), False),
        ("on 29 February", (2023, 2, 28), True),
        ("on 29 February", (2023, 2, 27), False),
        ("last winter", (2023, 1, 15), True),
        ("last winter", (2022, 1, 15), False),
        ("in mid December", (9999, 12, 15), True),
        ("in mid January", (1, 1, 15), True),
        ("the week before 3 January", (2020, 12, 29), True),
        ("the week before 3 January", (2021, 1, 1), False),
        ("yesterday", (2024, 2, 28), True),
        ("yesterday", (2023, 2, 28), False),
    ],
)
def test_a_month_without_a_year_is_that_of_any(text: str, days: tuple[int, int, int], expected: bool) -> None:  # noqa: FBT001 - a parameter
    """What names its year, or is told from now, is of one year only."""
    (named,) = find_dates(text, date(2024, 2, 29))
    assert is_during(named, date(*days), date(*days)) is expected


@given(st.text(max_size=200), st.sets(st.text(max_size=10), max_size=4))
def test_any_text_is_a_query(text: str, speakers: set[str]) -> None:
    """Whatever the words and the names are, there is something to embed and nothing is added."""
    query = read_query(text, now=NOW).about(speakers)
    assert len(query.embedded) <= len(text)
    assert bool(query.embedded.strip()) == bool(text.strip())
    assert all(query.roots)
