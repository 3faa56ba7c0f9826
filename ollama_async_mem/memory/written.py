"""Days and stretches of days as people write them. Pure."""

from __future__ import annotations

from calendar import month_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date

    from ollama_async_mem.records import DateRange

__all__ = ["day_name", "span_name"]


def day_name(day: date) -> str:
    """Write a day: `8 May 2023`."""
    return f"{day.day} {month_name[day.month]} {day.year}"


def span_name(days: DateRange) -> str:
    """Write a stretch: `8 May 2023`, `May 2023`, `2023`, or from one to the other."""
    start, end = days.start, days.end
    if days.precision == "year":
        return str(start.year)
    if days.precision == "month":
        return f"{month_name[start.month]} {start.year}"
    if start == end:
        return day_name(start)
    if days.precision == "season":
        return f"{month_name[start.month]} to {month_name[end.month]} {end.year}"
    return f"{day_name(start)} to {day_name(end)}"
