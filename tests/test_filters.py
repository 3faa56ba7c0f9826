"""Filters are read into a typed tree, or refused with the reason."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.filters import (
    TEXT_FIELDS,
    TIME_FIELDS,
    AllOf,
    AnyOf,
    Compare,
    Condition,
    Field,
    Negation,
    Scalar,
    instant,
    parse_filters,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY, NEXT_DAY = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)


def own(name: str, op: Any, value: Any) -> Compare:
    """A comparison of a field that every memory has."""
    return Compare(Field(name), op, value)


def meta(path: str, op: Any, value: Any) -> Compare:
    """A comparison of a metadata value, its path written with dots."""
    return Compare(Field("", tuple(path.split("."))), op, value)


GOOD: list[tuple[Any, Condition | None]] = [
    (None, None),
    ({}, None),
    (MappingProxyType({"a": 1}), meta("a", "eq", 1)),
    # short forms
    ({"a": "b"}, meta("a", "eq", "b")),
    ({"a": None}, meta("a", "eq", None)),
    ({"a": True}, meta("a", "eq", True)),
    ({"a": 1.5}, meta("a", "eq", 1.5)),
    ({"a": "*"}, meta("a", "exists", True)),
    ({"a": ["b", 1, None]}, meta("a", "in", ("b", 1, None))),
    ({"a": ()}, meta("a", "in", ())),
    # operators
    ({"a": {"eq": "*"}}, meta("a", "eq", "*")),
    ({"a": {"ne": 1}}, Negation(meta("a", "eq", 1))),
    ({"a": {"nin": [1]}}, Negation(meta("a", "in", (1,)))),
    ({"a": {"exists": False}}, meta("a", "exists", False)),
    ({"a": {"contains": 1}}, meta("a", "contains", 1)),
    ({"a": {"icontains": "B"}}, meta("a", "icontains", "B")),
    ({"a": {"gt": 1, "lt": 5}}, AllOf((meta("a", "gt", 1), meta("a", "lt", 5)))),
    # fields
    *[({name: "x"}, own(name, "eq", "x")) for name in TEXT_FIELDS],
    *[({name: NOON}, own(name, "eq", NOON)) for name in TIME_FIELDS],
    ({"a.b.c": 1}, meta("a.b.c", "eq", 1)),
    ({"metadata.at": 1}, meta("at", "eq", 1)),
    ({"metadata.metadata.x": 1}, meta("metadata.x", "eq", 1)),
    ({"metadata": 1}, meta("metadata", "eq", 1)),
    ({"'; DROP TABLE": "\0\ud800"}, meta("'; DROP TABLE", "eq", "\0\ud800")),
    ({"and": 1}, meta("and", "eq", 1)),
    ({"kind": 5}, own("kind", "eq", 5)),
    # junctions
    ({"a": 1, "b": 2}, AllOf((meta("a", "eq", 1), meta("b", "eq", 2)))),
    ({"AND": [{"a": 1}, {"b": 2}]}, AllOf((meta("a", "eq", 1), meta("b", "eq", 2)))),
    ({"OR": [{"a": 1}, {}]}, AnyOf((meta("a", "eq", 1), AllOf(())))),
    ({"OR": []}, AnyOf(())),
    ({"NOT": [{"a": 1}, {"b": 2}]}, Negation(AnyOf((meta("a", "eq", 1), meta("b", "eq", 2))))),
    ({"NOT": {"a": 1}}, Negation(AnyOf((meta("a", "eq", 1),)))),
    ({"a": 1, "OR": [{"b": 2}]}, AllOf((meta("a", "eq", 1), AnyOf((meta("b", "eq", 2),))))),
    # times
    ({"at": {"gt": "2026-03-01T13:00+01:00"}}, own("at", "gt", NOON)),
    ({"at": {"gt": NOON.replace(tzinfo=None)}}, own("at", "gt", NOON)),
    ({"at": {"in": [NOON, None]}}, AnyOf((own("at", "eq", NOON), own("at", "eq", None)))),
    ({"expires_at": None}, own("expires_at", "eq", None)),
    ({"text": {"gt": "2026-03-01"}}, own("text", "gt", "2026-03-01")),
    ({"a": {"gt": "2026-03-01T12:00"}}, meta("a", "gt", NOON)),
    ({"a": {"gt": "2026-03-01 at noon"}}, meta("a", "gt", "2026-03-01 at noon")),
    ({"a": "2026-03-01"}, meta("a", "eq", "2026-03-01")),
    ({"a": NOON}, meta("a", "eq", NOON)),
    # days
    ({"at": {"gt": "2026-03-01"}}, own("at", "gte", NEXT_DAY)),
    ({"at": {"gte": "2026-03-01"}}, own("at", "gte", DAY)),
    ({"at": {"lt": "2026-03-01"}}, own("at", "lt", DAY)),
    ({"at": {"lte": "2026-03-01"}}, own("at", "lt", NEXT_DAY)),
    ({"at": "2026-03-01"}, AllOf((own("at", "gte", DAY), own("at", "lt", NEXT_DAY)))),
    ({"at": {"ne": date(2026, 3, 1)}}, Negation(AllOf((own("at", "gte", DAY), own("at", "lt", NEXT_DAY))))),
    ({"a": date(2026, 3, 1)}, AllOf((meta("a", "gte", DAY), meta("a", "lt", NEXT_DAY)))),
    ({"a": {"lte": "2026-03-01"}}, meta("a", "lt", NEXT_DAY)),
    ({"at": ["2026-03-01"]}, AnyOf((AllOf((own("at", "gte", DAY), own("at", "lt", NEXT_DAY))),))),
    # bounds
    ({"a": 2**53}, meta("a", "eq", 2**53)),
    ({".".join(["a"] * 16): 1}, meta(".".join(["a"] * 16), "eq", 1)),
]

BAD: list[tuple[Any, str]] = [
    ([], "filters are a mapping"),
    ("", "filters are a mapping"),
    ({"": 1}, "filter fields are texts that are not empty"),
    ({1: 1}, "filter fields are texts that are not empty, got int"),
    ({"a..b": 1}, "'a..b' has an empty part"),
    ({"metadata.": 1}, "'metadata.' has an empty part"),
    ({".".join(["a"] * 17): 1}, "more than 16"),
    ({"AND": 1}, "filters are a mapping.*got int"),
    ({"OR": [[{"a": 1}]]}, "filters are a mapping.*got list"),
    ({"a": {}}, "the filter on 'a' has no operator; known are eq, ne"),
    ({"a": {"like": 1}}, "unknown filter operator 'like' on 'a'; known are eq, ne"),
    ({"a": {1: 1}}, "unknown filter operator 1 on 'a'"),
    ({"a": {"b": 1}}, "unknown filter operator 'b' on 'a'"),
    ({"a": {"exists": 1}}, "'exists' on 'a' takes a boolean, got int"),
    ({"a": {"in": "abc"}}, "'in' on 'a' takes a list, got str"),
    ({"a": {"nin": None}}, "'in' on 'a' takes a list, got NoneType"),
    ({"a": {"in": [[1]]}}, "the filter on 'a' takes a text, number, boolean, time or null, got list"),
    ({"a": {"eq": {}}}, "takes a text, number, boolean, time or null, got dict"),
    ({"a": b"b"}, "takes a text, number, boolean, time or null, got bytes"),
    ({"a": {"gt": None}}, "'gt' on 'a' takes a number, a text or a time, got None"),
    ({"a": {"lte": True}}, "'lte' on 'a' takes a number, a text or a time, got True"),
    ({"a": {"contains": None}}, "'contains' on 'a' is about texts and lists"),
    ({"a": {"contains": NOON}}, "'contains' on 'a' is about texts and lists"),
    ({"at": {"contains": "2026"}}, "'contains' on 'at' is about texts and lists"),
    ({"usr_id": "alice"}, "unknown filter field 'usr_id': did you mean 'user_id'.*'metadata.usr_id'"),
    ({"AND": [{"creatd_at": {"gt": "2026-03-01"}}]}, "did you mean 'created_at'"),
    ({"userId": "alice"}, "did you mean 'user_id'"),
    ({"uesr_id": "alice"}, "did you mean 'user_id'"),
    ({"runid": "7"}, "did you mean 'run_id'"),
    ({"speakers": "Mia"}, "did you mean 'speaker'"),
    ({"Expires-At": None}, "did you mean 'expires_at'"),
    ({"Text": "tea"}, "did you mean 'text'"),
    ({"a": {"icontains": 1}}, "'icontains' on 'a' takes a text, got int"),
    ({"text": NOON}, "the filter on 'text' takes a text, got a time"),
    ({"at": 5}, "the filter on 'at' takes a date or a time such as 2026-03-01, got 5"),
    ({"at": {"gt": "yesterday"}}, "takes a date or a time such as 2026-03-01, got 'yesterday'"),
    ({"at": "2026-02-30"}, "takes a date or a time"),
    ({"at": "9999-12-31"}, "out of the range of dates"),
    ({"a": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))}, "out of the range of dates"),
    ({"a": 2**53 + 1}, "beyond 2..53"),
    ({"a": 10**5_000}, "beyond 2..53"),
    ({"a": float("nan")}, "NaN"),
    ({"a": [float("-inf")]}, "beyond 2..53"),
    ({"AND": [{"a": 1}] * 501}, "at most 500 conditions"),
    ({"a": {"in": [1] * 10_001}}, "10,000 values"),
]


@pytest.mark.parametrize(("filters", "condition"), GOOD, ids=[str(filters)[:60] for filters, _ in GOOD])
def test_filters_become_conditions(filters: Any, condition: Condition | None) -> None:
    """What each filter means, also when it stands inside others."""
    found = parse_filters(filters)
    assert found == condition
    assert repr(found) == repr(condition)  # which tells 1 from True
    if condition is not None:
        assert parse_filters({"NOT": [filters]}) == Negation(AnyOf((condition,)))


@pytest.mark.parametrize(("filters", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_read_is_refused(filters: Any, message: str) -> None:
    """The error says which field and what is allowed, in a few words however large the filter is."""
    with pytest.raises(ConfigError, match=message) as caught:
        parse_filters(filters)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", ["metadata.usr_id", "metadata.userId", "user.id", "user", "turn_id", "test", "roles", "updated_at", "and"]
)
def test_other_names_are_of_metadata(name: str) -> None:
    """A name is refused only where it is plainly a slip, and behind `metadata.` never."""
    assert parse_filters({name: 1}) == Compare(Field("", tuple(name.removeprefix("metadata.").split("."))), "eq", 1)


def nested(depth: int) -> dict[str, Any]:
    """A filter inside others."""
    filters: dict[str, Any] = {"a": 1}
    for _ in range(depth):
        filters = {"NOT": [filters]}
    return filters


def test_depth_and_size_are_bounded() -> None:
    """The largest filters are read; deeper ones are refused, also those that contain themselves."""
    endless: dict[str, Any] = {}
    endless["AND"] = [endless]
    assert parse_filters(nested(15))
    assert parse_filters({"OR": [{"a": i} for i in range(500)]})
    assert parse_filters({"a": list(range(10_000))})
    for filters in (nested(16), nested(100_000), endless):
        with pytest.raises(ConfigError, match="at most 16 deep"):
            parse_filters(filters)


@pytest.mark.parametrize("name", ["x" * 1_000_000, "\ud800" * 1_000])
def test_messages_are_short(name: str) -> None:
    """A name of any length is shown in part."""
    with pytest.raises(ConfigError) as caught:
        parse_filters({name: {"\0" * 1_000_000: name}})
    assert len(str(caught.value)) < 400


keys = st.text(max_size=3) | st.sampled_from(
    ["AND", "OR", "NOT", "at", "text", "a.b", "eq", "ne", "gt", "lte", "in", "nin", "contains", "icontains", "exists"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["2026-03-01", "*"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(keys, values, max_size=3),
    max_leaves=12,
)


@given(filters=st.dictionaries(keys, json_values, max_size=3) | json_values)
def test_any_json_is_a_condition_or_refused(filters: Any) -> None:
    """Nothing else is raised, and a condition has only values that its operator takes."""
    try:
        condition = parse_filters(filters)
    except ConfigError:
        return
    for compare in compares(condition):
        values = compare.value if isinstance(compare.value, tuple) else (compare.value,)
        assert isinstance(compare.value, tuple) == (compare.op == "in")
        assert all(fits(compare, value) for value in values)


def compares(condition: Condition | None) -> list[Compare]:
    """The leaves of a tree."""
    if isinstance(condition, AllOf | AnyOf):
        return [leaf for part in condition.parts for leaf in compares(part)]
    if isinstance(condition, Negation):
        return compares(condition.part)
    return [condition] if condition else []


def fits(compare: Compare, value: Scalar) -> bool:
    """Whether a store may rely on the type of a value."""
    if compare.op == "exists":
        return isinstance(value, bool)
    if compare.op == "icontains":
        return isinstance(value, str)
    if compare.op == "contains":
        return isinstance(value, str | int | float)
    if compare.field.name in TIME_FIELDS:
        return isinstance(value, datetime) or (compare.op == "eq" and value is None)
    if compare.op in {"eq", "in"}:
        return not (isinstance(value, datetime) and (compare.op == "in" or compare.field.name))
    return isinstance(value, str | int | float | datetime) and not isinstance(value, bool)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-03-01", DAY),
        ("2026-03-01T12:00", NOON),
        ("2026-03-01 12:00:00", NOON),
        ("2026-03-01T12:00:00Z", NOON),
        ("2026-03-01T06:30:00.0-05:30", NOON),
        ("2026-03-01T12:00:00.000001+00:00", NOON + timedelta(microseconds=1)),
        ("2026-03-02T03:59+15:59", NOON),
        ("0001-01-01", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999", datetime.max.replace(tzinfo=UTC)),
        *[(text, None) for text in ("", "now", "2026", "2026-03", "20260301", "2026-W09-7", "2026-3-1", "2026-02-29")],
        *[(f"2026-03-01T{time}", None) for time in ("", "12", "24:00", "12:60", "12:00:60", "12:00:00.", "1200")],
        *[(f"2026-03-01T12:00{zone}", None) for zone in ("z", " ", "+1", "+16:00", "+24:00", "+01:60", "+0100")],
        *[
            (text, None)
            for text in (" 2026-03-01", "2026-03-01\n", "2026-03-01T12:00\0", "\u0662\u0660\u0662\u0666-03-01")
        ],
        *[(text, None) for text in ("0000-01-01", "0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00", "10000-01-01")],
    ],
)
def test_instants_of_texts(text: str, at: datetime | None) -> None:
    """Dates and times of ISO 8601 in the forms that people write, and nothing that is not on the calendar or clock."""
    assert instant(text) == at
    assert at is None or str(instant(text)) == str(at)


@given(at=st.datetimes(timezones=st.just(UTC)), hours=st.integers(-15, 15), separator=st.sampled_from("T "))
def test_every_time_is_read_as_it_is_written(at: datetime, hours: int, separator: str) -> None:
    """The ISO form of a time, on any clock, is that time."""
    try:
        text = at.astimezone(timezone(timedelta(hours=hours))).isoformat(separator)
    except OverflowError:
        return
    assert instant(text) == at
