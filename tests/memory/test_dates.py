"""Dates in what people say: what is read, what is not, and that reading stays cheap."""

from __future__ import annotations

import itertools
import time
from calendar import month_name
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.locomo_dates import read_answer, score
from ollama_async_mem.memory.dates import find_dates, spans
from ollama_async_mem.memory.dates.words import KINDS, LEADING, NAMING, listed

if TYPE_CHECKING:
    from ollama_async_mem.memory.dates.spans import Kind
    from ollama_async_mem.records import DateRange

WEDNESDAY = date(2023, 7, 12)


def told(found: DateRange) -> str:
    """A range as the tables have it: its precision, then its day, or its first and last day."""
    days = str(found.start) if found.start == found.end else f"{found.start}..{found.end}"
    return f"{found.precision} {days}"


# The words in brackets are those that are read; all of it is said on Wednesday, 12 July 2023.
READ = {
    # days around
    "I went there [yesterday].": "day 2023-07-11",
    "YES, [TODAY]!": "day 2023-07-12",
    "[Tomorrow morning] at 9": "day 2023-07-13",
    "What about [tonight]?": "day 2023-07-12",
    "Had coffee with Ann [this morning].": "day 2023-07-12",
    "[last night] was fun": "day 2023-07-11",
    "[the day before yesterday] it rained": "day 2023-07-10",
    "and [the day after tomorrow] too": "day 2023-07-14",
    "[the other day] I saw him": "span 2023-07-05..2023-07-11",
    "[later today]": "day 2023-07-12",
    # weekdays
    "[Last Friday] was fun": "day 2023-07-07",
    "we met [last Wed] at noon": "day 2023-07-05",
    "[this Friday] we leave": "day 2023-07-14",
    "I saw her [this Monday]": "day 2023-07-10",
    "[this past Monday]": "day 2023-07-10",
    "[next Friday] works": "day 2023-07-14",
    "[next Wednesday evening]": "day 2023-07-19",
    "I went [on Friday]": "day 2023-07-07",
    "we are going [on Friday]": "day 2023-07-14",
    "see you [friday]": "day 2023-07-14",
    "We lost again. [On Friday] it is our turn": "day 2023-07-14",
    "[On Friday], I got great news - I'm glad": "day 2023-07-07",
    "[Saturday night] we danced": "day 2023-07-08",
    "It is due [by Friday]": "day 2023-07-14",
    "[until Sunday]": "day 2023-07-16",
    "he fell [on Wednesday]": "day 2023-07-05",
    "We fly to Lisbon [on Friday].": "day 2023-07-14",
    "Mum arrives [on Sunday].": "day 2023-07-16",
    "They didn't arrive [on Sunday]": "day 2023-07-09",
    "I had to leave [on Friday]": "day 2023-07-07",
    "I have a dentist appointment [on Friday]": "day 2023-07-14",
    "I've got a meeting [on Friday]": "day 2023-07-14",
    "I had a dentist appointment [on Friday]": "day 2023-07-07",
    "I have seen Ann [on Friday]": "day 2023-07-07",
    "remind me [on Thursday]": "day 2023-07-13",
    "Tickets [for Saturday]": "day 2023-07-15",
    "I booked a table [for Saturday]": "day 2023-07-15",
    "The deadline: [Friday]": "day 2023-07-14",
    "I missed the deadline [on Friday]": "day 2023-07-07",
    "My parents visit us [on Sunday]": "day 2023-07-16",
    "[two Fridays ago]": "day 2023-06-30",
    "[the Friday before last]": "day 2023-06-30",
    "[last week on Friday]": "day 2023-07-07",
    "[Monday of last week]": "day 2023-07-03",
    "[Tuesday next week]": "day 2023-07-18",
    "[the Friday before 15 June]": "day 2023-06-09",
    "[the Sunday after Thanksgiving 2022]": "day 2022-11-27",
    # weeks and weekends
    "[last week]'s talk": "week 2023-07-03..2023-07-09",
    "What is on [this week]?": "week 2023-07-10..2023-07-16",
    "[next week] I rest": "week 2023-07-17..2023-07-23",
    "[the week before last]": "week 2023-06-26..2023-07-02",
    "[the week after next]": "week 2023-07-24..2023-07-30",
    "[the week before 23 January] it snowed": "week 2023-01-16..2023-01-22",
    "[the week of July 3rd] was hot": "week 2023-07-03..2023-07-09",
    "[the last week of September 2023]": "week 2023-09-25..2023-10-01",
    "[the first week of August 2023]": "week 2023-07-31..2023-08-06",
    "[last weekend]": "weekend 2023-07-08..2023-07-09",
    "I'm off [this weekend]": "weekend 2023-07-15..2023-07-16",
    "[this weekend] was fun": "weekend 2023-07-08..2023-07-09",
    "we hiked [over the weekend]": "weekend 2023-07-08..2023-07-09",
    "[two weekends ago]": "weekend 2023-07-01..2023-07-02",
    "[the weekend before last]": "weekend 2023-07-01..2023-07-02",
    "[the weekend of 3 March]": "weekend 2023-03-04..2023-03-05",
    "[the first weekend of August 2023]": "weekend 2023-08-05..2023-08-06",
    "[two weekends before 17 July 2023]": "weekend 2023-07-08..2023-07-09",
    # so many ago, and ahead
    "[two days ago]": "day 2023-07-10",
    "[thirty-one days ago]": "day 2023-06-11",
    "[a couple days ago]": "day 2023-07-10",
    "[a few days ago]": "span 2023-07-07..2023-07-10",
    "[several weeks ago]": "span 2023-05-22..2023-06-25",
    "[2 weeks ago] we": "week 2023-06-26..2023-07-02",
    "[two or three weeks ago]": "span 2023-06-19..2023-07-02",
    "[a day or two ago]": "span 2023-07-10..2023-07-11",
    "[a month ago]": "month 2023-06-01..2023-06-30",
    "about [ten years ago]": "year 2013-01-01..2013-12-31",
    "[a few years back] with friends": "span 2018-01-01..2021-12-31",
    "[a year and a half ago]": "month 2022-01-01..2022-01-31",
    "[half a year ago]": "month 2023-01-01..2023-01-31",
    "[a week and a half ago]": "day 2023-07-02",
    "[a decade ago]": "year 2013-01-01..2013-12-31",
    "[a year ago today]": "day 2022-07-12",
    "I've had them for [3 years now]": "year 2020-01-01..2020-12-31",
    "I leave [in two weeks]": "week 2023-07-24..2023-07-30",
    "back [in a few days]": "span 2023-07-14..2023-07-17",
    "[two weeks from now]": "week 2023-07-24..2023-07-30",
    "[a week from Friday] we will know": "day 2023-07-21",
    "[two days before Christmas] it snowed": "day 2022-12-23",
    "[a few days before the 10th], I was ill": "span 2023-07-05..2023-07-08",
    # stretches that run to or from the day
    "[the past two weeks] were hard": "span 2023-06-28..2023-07-12",
    "much happened in [the last month]": "span 2023-06-12..2023-07-12",
    "over [the next few weeks]": "span 2023-07-12..2023-08-16",
    "here [since 2019]": "span 2019-01-01..2023-07-12",
    "[since last Friday] I've been ill": "span 2023-07-07..2023-07-12",
    "[since the end of last week]": "span 2023-07-07..2023-07-12",
    # months
    "[last month] I": "month 2023-06-01..2023-06-30",
    "[next month]": "month 2023-08-01..2023-08-31",
    "we met [in March]": "month 2023-03-01..2023-03-31",
    "we will meet [in March]": "month 2024-03-01..2024-03-31",
    "it was [in September]": "month 2022-09-01..2022-09-30",
    "[last March]": "month 2023-03-01..2023-03-31",
    "[last July]": "month 2022-07-01..2022-07-31",
    "[March 2023] was cold": "month 2023-03-01..2023-03-31",
    "[May, 2021]": "month 2021-05-01..2021-05-31",
    "[June of last year]": "month 2022-06-01..2022-06-30",
    "We went in [early June]": "span 2023-06-01..2023-06-10",
    "[mid-June 2021]": "span 2021-06-11..2021-06-20",
    "in [late August 2022] I moved": "span 2022-08-21..2022-08-31",
    "by [the end of the month]": "span 2023-07-21..2023-07-31",
    "[the beginning of May] was wet": "span 2023-05-01..2023-05-10",
    # days of the calendar
    "He came on [2023-01-23].": "day 2023-01-23",
    "[2023/01/23]": "day 2023-01-23",
    "[1/2/2023]": "day 2023-01-02",
    "[23/1/2023]": "day 2023-01-23",
    "[3.12.2022]": "day 2022-12-03",
    "[12/25/22]": "day 2022-12-25",
    "He came [23 January].": "day 2023-01-23",
    "It was [January 23rd, 2021]!": "day 2021-01-23",
    "[the 4th of July] was loud": "day 2023-07-04",
    "[the first of May] was loud": "day 2023-05-01",
    "[Sunday, January 1, 2023]": "day 2023-01-01",
    "[23-Jan-2023]": "day 2023-01-23",
    "[Sept. 12, 2022]": "day 2022-09-12",
    "my birthday is [on March 5th]": "day 2024-03-05",
    "[June 5-7, 2023]": "span 2023-06-05..2023-06-07",
    "we won [on the 5th] after all": "day 2023-07-05",
    "we will win [on the 5th].": "day 2023-08-05",
    "it was [the 31st].": "day 2023-05-31",
    "[the 15th of next month]": "day 2023-08-15",
    "[Tuesday the 4th] was it": "day 2023-07-04",
    # seasons, years, decades
    "[last summer] in Rome": "season 2022-06-01..2022-08-31",
    "Any plans for [this summer]?": "season 2023-06-01..2023-08-31",
    "[Summer 2022]": "season 2022-06-01..2022-08-31",
    "the [summer of '22]": "season 2022-06-01..2022-08-31",
    "the [summer of '98]": "season 1998-06-01..1998-08-31",
    "[last winter] we skied": "season 2022-12-01..2023-02-28",
    "[last year]": "year 2022-01-01..2022-12-31",
    "He was born [in 1987].": "year 1987-01-01..1987-12-31",
    "[early 2022] was": "span 2022-01-01..2022-05-01",
    "[the 90s]": "decade 1990-01-01..1999-12-31",
    "[the 2010s]": "decade 2010-01-01..2019-12-31",
    "a house of [the 1800s]": "span 1800-01-01..1899-12-31",
    "[last decade]": "decade 2010-01-01..2019-12-31",
    # holidays
    "[last Christmas] I gave": "day 2022-12-25",
    "[Christmas Eve 2021]": "day 2021-12-24",
    "we met [on New Year\u2019s Eve]": "day 2022-12-31",
    "[on Valentine's Day] he asked": "day 2023-02-14",
    "[Thanksgiving 2023]": "day 2023-11-23",
    "[Black Friday 2023]": "day 2023-11-24",
    "[next Halloween]": "day 2023-10-31",
    "[Easter 2024]": "day 2024-03-31",
    "[Good Friday 2024]": "day 2024-03-29",
    "[Mother's Day 2023]": "day 2023-05-14",
    "[Memorial Day 2024]": "day 2024-05-27",
    "We are with them [for Thanksgiving]": "day 2023-11-23",
}


@pytest.mark.parametrize("marked", READ)
def test_words_are_read_as_days(marked: str) -> None:
    """Each sentence names exactly the days that the table says, with exactly the marked words."""
    text, words = marked.replace("[", "").replace("]", ""), marked[marked.index("[") + 1 : marked.index("]")]
    found = find_dates(text, WEDNESDAY)
    assert [(f.text, told(f)) for f in found] == [(words, READ[marked])]


@pytest.mark.parametrize(
    "text",
    [
        "I may come. May I? We march, they walked the second mile.",
        "The sun was out and I sat there. We wed.",
        "She's 5 years old, on a 3 week trip, for three years. It took two months.",
        "I finished it in two weeks. He did it in a day.",
        "Friday Night Lights is on every Friday, on Friday mornings and on a Friday, or Fridays.",
        "April told me about June. With August, for June.",
        "the next day; the next week; the following month; that Friday; the Friday",
        "Merry Christmas! Happy Halloween! The Christmas tree is up.",
        "We had a busy week since we last talked, a few days for me.",
        "the 5th grade, on the 3rd floor, my 18th birthday, the 21st century",
        "two days after the wedding, the day before my birthday, the last week of school, since then",
        "1/2 cup, 24/7, 9-5, 10.0.20.12, 555-12-1234, in 2000 people, Cyberpunk 2077, 3.5 weeks ago",
        "2023-02-30, 31 April, 13/13/2023, 2/29/2023, 2023-01-0123, 0000-01-01",
        "twice in a month, three times a week, once a year, every day, any day now",
        "the second Saturday of every month, in 5 minutes, two hours ago",
        "I ate 5 may-apples and met 3 sun bears",
    ],
)
def test_what_is_no_date_is_left_alone(text: str) -> None:
    """Verbs, names, durations, ages, habits, greetings and impossible days are no dates."""
    assert find_dates(text, WEDNESDAY) == []


def test_dates_come_in_the_order_of_the_text() -> None:
    """All dates of a text are found, each with its own tense."""
    text = "We won on Friday. We are off on Monday; in March 2022, and two weeks ago, it rained."
    assert [told(f) for f in find_dates(text, WEDNESDAY)] == [
        "day 2023-07-07",
        "day 2023-07-17",
        "month 2022-03-01..2022-03-31",
        "week 2023-06-26..2023-07-02",
    ]


@pytest.mark.parametrize(("prefer", "start"), [(None, 7), ("past", 7), ("future", 14)])
def test_what_is_preferred_decides_where_words_do_not(prefer: Any, start: int) -> None:
    """Without a tense the past is meant, or what the caller prefers; a tense in the text comes first."""
    assert find_dates("Friday!", WEDNESDAY, prefer=prefer)[0].start == date(2023, 7, start)
    assert find_dates("We won on Friday", WEDNESDAY, prefer=prefer)[0].start == date(2023, 7, 7)


@pytest.mark.parametrize(
    ("said_at", "day"),
    [
        (datetime(2023, 7, 12, 0, 30, tzinfo=timezone(timedelta(hours=9))), 11),  # it is still the 11th in UTC
        (datetime(2023, 7, 11, 23, 30, tzinfo=UTC), 10),
        (datetime(2023, 7, 12, 23, 30, tzinfo=timezone(timedelta(hours=-7))), 11),
        (date(2023, 7, 12), 11),
    ],
)
def test_the_day_is_that_of_the_speakers_clock(said_at: datetime | date, day: int) -> None:
    """Relative words are seen from the calendar day in the offset of the message."""
    assert find_dates("yesterday", said_at)[0].start == date(2023, 7, day)


@pytest.mark.parametrize("said_on", [date.min, date.max])
def test_days_outside_of_the_calendar_are_none(said_on: date) -> None:
    """At the edges of the calendar some words name no day, and nothing fails."""
    text = "last year, 9999 years ago, in 9999 years, yesterday, tomorrow, next week, since last week, on Friday"
    assert all(date.min <= f.start <= f.end <= date.max for f in find_dates(text, said_on))
    assert find_dates("today", said_on) != []
    assert find_dates("9999 years ago, in 9999 years", said_on) == []


@pytest.mark.parametrize("before", ["\U0001f389 ", "İİİ ", "ǅ ﬀ ß ", "e\u0301 \u2019 "])
def test_positions_count_characters_of_the_text_as_it_is(before: str) -> None:
    """Emoji, capitals that grow in lower case and curly quotes do not move positions."""
    text = f"{before}LAST Friday"
    (found,) = find_dates(text, WEDNESDAY)
    assert found.position == (len(before), len(text))
    assert text[slice(*found.position)] == found.text == "LAST Friday"


WORDS = st.sampled_from(
    sorted({*NAMING, *LEADING, *KINDS})
    + listed("ago since of before after now back last next this May March 5 5th 23 2023 1999 90s '22 0 9999 2023-01-23")
    + ["1/2/2023", ".", ",", "-", "'s", "\n", "  ", "we", "went", "will", "İ"]
)
TEXTS = st.one_of(st.text(), st.lists(WORDS, max_size=14).map(" ".join), st.lists(WORDS, max_size=14).map("".join))
TIMES = st.one_of(st.dates(), st.datetimes(timezones=st.just(UTC)))


@given(TEXTS, TIMES, st.sampled_from([None, "past", "future"]))
def test_any_text_is_read_without_failing(text: str, said_at: datetime | date, prefer: Any) -> None:
    """Ranges run forward, and their words stand in the text at their positions, in order and apart."""
    found = find_dates(text, said_at, prefer=prefer)
    assert all(f.start <= f.end for f in found)
    assert all(f.text and text[slice(*f.position)] == f.text for f in found)
    assert all(a.position[1] <= b.position[0] for a, b in itertools.pairwise(found))


@given(st.dates(date(1900, 1, 1), date(2099, 12, 31)), st.dates(date(1900, 1, 1), date(2099, 12, 31)))
def test_a_written_day_is_read_whenever_it_is_said(day: date, said_on: date) -> None:
    """The usual ways to write a day with its year name that day."""
    month = month_name[day.month]
    for text in (
        day.isoformat(),
        f"{day.month}/{day.day}/{day.year}",
        f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"the {day.day}th of {month[:3]} {day.year}",
    ):
        (found,) = find_dates(f"It was {text}.", said_on)
        assert (found.text.removeprefix("the "), found.start, found.end) == (text.removeprefix("the "), day, day)


@pytest.mark.parametrize(
    "name", ["day", "week", "weekend", "sunday", "month", "may", "winter", "summer", "easter", "thanksgiving"]
)
@given(of=st.dates(date(1900, 1, 1), date(2100, 12, 31)))
def test_kinds_come_in_order_around_a_day(name: str, of: date) -> None:
    """The last of a kind ends before the day, the next begins after it, and only one that holds it lies between."""
    kind: Kind = KINDS[name]
    last, following = spans.nth(kind, of, -1), spans.nth(kind, of, 1)
    assert last.end < of < following.start
    between = [
        kind(of, n) for n in (-2, -1, 0, 1, 2) if last.end < kind(of, n).start and kind(of, n).end < following.start
    ]
    assert all(one.start <= of <= one.end for one in between)
    assert spans.near(kind, of, future=True) in (*between, following)
    assert spans.near(kind, of, future=False) in (*between, last)
    assert spans.nth(kind, of, -2).end < last.start


@pytest.mark.parametrize("sunday", ["1961-04-02", "2000-04-23", "2019-04-21", "2024-03-31", "2025-04-20", "2038-04-25"])
def test_easter_is_computed(sunday: str) -> None:
    """Easter Sunday, also the late and the early ones."""
    (found,) = find_dates(f"Easter {sunday[:4]}", WEDNESDAY)
    assert str(found.start) == sunday


CHEAP = ["the ", "last ", "a ", "since ", "in a few ", "twenty-", "1", " ", "\n", "'", "x", "É"]
COSTLY = ["the first week of ", "1-", "1/2/", "2023-", "3 days before ", "on Friday ", "march 5 ", "January, the 5 "]


@pytest.mark.parametrize(("repeated", "chars"), [*((c, 1_000_000) for c in CHEAP), *((c, 60_000) for c in COSTLY)])
def test_time_is_linear_in_the_length_of_the_text(repeated: str, chars: int) -> None:
    """Four times as much of what is hardest to read takes about four times as long, not sixteen."""
    small, large = (busy_seconds(repeated * (size // len(repeated))) for size in (chars // 4, chars))
    assert large < 8 * small + 0.1


def busy_seconds(text: str) -> float:
    """Processor time to read a text, the better of two."""
    times = []
    for _ in range(2):
        begin = time.process_time()
        find_dates(text, WEDNESDAY)
        times.append(time.process_time() - begin)
    return min(times)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("7 May 2023", "day 2023-05-07"),
        ("The week before 9June, 2023.", "week 2023-05-29..2023-06-04"),
        ("the friday before 23Janury, 2022", "day 2022-01-21"),
        ("April.2023", "month 2023-04-01..2023-04-30"),
        ("Since 2016", "year 2016-01-01..2016-12-31"),
        ("10 years ago", "year 2013-01-01..2013-12-31"),
        ("4 years", None),
        ("A few years ago", None),
        ("with Anna in May 2023", None),
    ],
)
def test_the_forms_of_answers_are_read(answer: str, expected: str | None) -> None:
    """An answer counts if it is one day, weekend, week, month or year and nothing else, misspelled or not."""
    found = read_answer(answer, WEDNESDAY)
    assert (found and told(found)) == expected


def test_scoring_tells_exact_from_fitting() -> None:
    """A finer date inside the answer fits, a wrong or a coarser one does not; without one the session's day counts."""
    texts = ["We met last Friday.", "We met last week.", "We met last year.", "We met.", "We will meet tomorrow."]
    answers = ["7 July 2023", "July 2023", "July 2022", "July 2023", "tea"]
    conversation = {
        "conversation": {
            "session_1_date_time": "1:56 pm on 12 July, 2023",
            "session_1": [{"dia_id": f"D1:{n}", "text": text} for n, text in enumerate(texts)],
        },
        "qa": [
            {"question": "When?", "answer": answer, "evidence": [f"D1:0{n}"], "category": 2}
            for n, answer in enumerate(answers)
        ],
    }
    assert score([conversation]) == {
        "questions": 4,
        "temporal_exact": 0.75,
        "temporal_strict": 0.25,
        "session_exact": 0.5,
        "session_strict": 0.0,
    }
