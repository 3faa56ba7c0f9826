"""Arithmetic on stretches of the calendar: the Friday before, the third week of, Easter. Knows no words. Pure.

A *kind* is a sort of stretch, such as weeks, Fridays or summers, as a function: `kind(of, 0)` is the one in the own
period of the day `of` (its week for Fridays, its year for summers) and `kind(of, n)` the one n periods later.
Weeks begin on Monday, seasons are the northern ones by whole months. What lies outside of the years 1 to 9999
raises ValueError or OverflowError, like `datetime.date`.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from ollama_async_mem.records import Precision

__all__ = [
    "Kind",
    "Span",
    "around",
    "day",
    "day_of_year",
    "decade",
    "easter",
    "month",
    "month_named",
    "moved",
    "near",
    "nth",
    "season",
    "third",
    "week",
    "weekday",
    "weekday_of_month",
    "weekend",
    "within",
    "year",
]

_THURSDAY, _SATURDAY, _WEEK = 3, 5, 7
_MONTHS = 12


class Span(NamedTuple):
    """Days from `start` to `end`, both of them in it."""

    start: date
    end: date
    precision: Precision

    @property
    def middle(self) -> date:
        """The day that decides to which month or year a week belongs: its Thursday, as in ISO 8601."""
        return self.start + timedelta((self.end - self.start).days // 2)


Kind: TypeAlias = Callable[[date, int], Span]


def day(of: date, n: int) -> Span:
    """Kind: days."""
    the_day = of + timedelta(n)
    return Span(the_day, the_day, "day")


def week(of: date, n: int) -> Span:
    """Kind: weeks, from Monday to Sunday."""
    monday = of + timedelta(_WEEK * n - of.weekday())
    return Span(monday, monday + timedelta(_WEEK - 1), "week")


def weekend(of: date, n: int) -> Span:
    """Kind: Saturdays with their Sundays."""
    saturday = of + timedelta(_WEEK * n - of.weekday() + _SATURDAY)
    return Span(saturday, saturday + timedelta(1), "weekend")


def month(of: date, n: int) -> Span:
    """Kind: calendar months."""
    return _months(of.year, of.month + n, 1, "month")


def year(of: date, n: int) -> Span:
    """Kind: calendar years."""
    return _months(of.year + n, 1, _MONTHS, "year")


def decade(of: date, n: int) -> Span:
    """Kind: decades, from a year that ends in 0; the first begins in year 1."""
    first = of.year - of.year % 10 + 10 * n
    return Span(date(max(first, 1), 1, 1), date(first + 9, 12, 31), "decade")


def _months(of_year: int, first: int, count: int, precision: Precision) -> Span:
    """Several months from the month `first` on, which may lie outside of 1 to 12."""
    years, index = divmod(first - 1, _MONTHS)
    more, last = divmod(index + count - 1, _MONTHS)
    end_year = of_year + years + more
    end = date(end_year, last + 1, monthrange(end_year, last + 1)[1])
    return Span(date(of_year + years, index + 1, 1), end, precision)


def weekday(number: int) -> Kind:
    """Kind: one day of each week; Monday is 0."""
    return lambda of, n: day(of, _WEEK * n + number - of.weekday())


def month_named(number: int) -> Kind:
    """Kind: one month of each year; January is 1."""
    return lambda of, n: _months(of.year + n, number, 1, "month")


def season(first: int) -> Kind:
    """Kind: three months of each year from the month `first` on; a winter counts to the year of its December."""

    def at(of: date, n: int) -> Span:
        back = of.month <= first + 2 - _MONTHS
        return _months(of.year - back + n, first, 3, "season")

    return at


def day_of_year(month_number: int, day_number: int) -> Kind:
    """Kind: one day of each year, such as 25 December."""
    return lambda of, n: day(date(of.year + n, month_number, day_number), 0)


def weekday_of_month(month_number: int, number: int, which: int, later: int = 0) -> Kind:
    """Kind: the `which`-th such weekday of a month of each year, -1 is the last, and `later` days after it."""

    def at(of: date, n: int) -> Span:
        whole = _months(of.year + n, month_number, 1, "month")
        found = within(weekday(number), whole, which)
        return day(found.start if found else whole.start, later)

    return at


def easter(later: int = 0) -> Kind:
    """Kind: western Easter Sunday, or the day so many days after it; the anonymous Gregorian computus."""

    def at(of: date, n: int) -> Span:
        the_year = of.year + n
        golden, (century, rest) = the_year % 19, divmod(the_year, 100)
        moon = (19 * golden + century - century // 4 - (century - (century + 8) // 25 + 1) // 3 + 15) % 30
        shift = (32 + 2 * (century % 4) + 2 * (rest // 4) - moon - rest % 4) % 7
        fix = (golden + 11 * moon + 22 * shift) // 451
        number, index = divmod(moon + shift - 7 * fix + 114, 31)
        return day(date(the_year, number, index + 1), later)

    return at


def nth(kind: Kind, of: date, n: int) -> Span:
    """Return the n-th of a kind after a day; before it, if n is negative; for 0 the one of its own period."""
    own = kind(of, 0)
    if n < 0 and own.end < of:
        return kind(of, n + 1)
    if n > 0 and own.start > of:
        return kind(of, n - 1)
    return kind(of, n)


def near(kind: Kind, of: date, *, future: bool) -> Span:
    """Return the one of a kind that holds a day, else the next one or the last one."""
    own = kind(of, 0)
    if future:
        return own if own.end >= of else kind(of, 1)
    return own if own.start <= of else kind(of, -1)


def within(kind: Kind, whole: Span, n: int) -> Span | None:
    """Return the n-th of a kind in a longer stretch, -1 for the last; it belongs where its middle lies."""
    edge, steps = (whole.start, (-1, 0, 1)) if n > 0 else (whole.end, (1, 0, -1))
    inside = (step for step in steps if whole.start <= kind(edge, step).middle <= whole.end)
    first = next(inside, None)
    if first is None:
        return None
    found = kind(edge, first + n - 1 if n > 0 else first + n + 1)
    return found if whole.start <= found.middle <= whole.end else None


def third(whole: Span, which: int) -> Span:
    """Return the early (0), middle (1) or late (2) third of a stretch."""
    days = (whole.end - whole.start).days + 1
    start = whole.start + timedelta(days * which // 3)
    return Span(start, whole.start + timedelta(days * (which + 1) // 3 - 1), "span")


def around(kind: Kind, of: date, least: int, most: int) -> Span:
    """Return all of a kind from the `least`-th to the `most`-th after a day, before it if they are negative."""
    first, last = nth(kind, of, min(least, most)), nth(kind, of, max(least, most))
    return first if first == last else Span(first.start, last.end, "span")


def moved(of: date, kind: Kind, n: int) -> date:
    """Return the day so many days, weeks, months or years from a day; the 31st becomes the last of a shorter month."""
    if kind is year:
        return moved(of, month, _MONTHS * n)
    own, other = kind(of, 0), kind(of, n)
    return min(other.start + (of - own.start), other.end)
