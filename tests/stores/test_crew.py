"""Work that threads share: all of it is done, in order, whoever does it."""

from __future__ import annotations

import threading
import time

import pytest

from ollama_async_mem.stores._crew import Crew


@pytest.mark.parametrize("helpers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_each_item_is_worked_on_once(helpers: int, count: int) -> None:
    """What is made comes in the order of the items."""
    crew, worked = Crew(helpers), []

    def square(number: int) -> int:
        worked.append(number)
        return number**2

    assert crew.map(square, range(count)) == [number**2 for number in range(count)]
    assert sorted(worked) == list(range(count))
    crew.stop()


def test_others_help() -> None:
    """Two items that wait for each other are both worked on."""
    crew, both = Crew(1), threading.Barrier(2, timeout=5)
    assert sorted(crew.map(lambda _: both.wait(), range(2))) == [0, 1]
    crew.stop()


def test_a_helper_who_is_busy_is_not_waited_for() -> None:
    """The caller does all of it then."""
    crew, go = Crew(1), threading.Event()
    busy = crew._pool.submit(go.wait)
    assert crew.map(lambda _: threading.current_thread(), range(9)) == [threading.current_thread()] * 9
    go.set()
    assert busy.result()
    crew.stop()


@pytest.mark.parametrize("bad", [0, 5])
def test_an_error_is_raised_once_nobody_works_any_more(bad: int) -> None:
    """Whoever of them met it."""
    crew, working = Crew(2), [0]

    def work(number: int) -> None:
        working[0] += 1
        time.sleep(0.001)
        working[0] -= 1
        if number == bad:
            raise ZeroDivisionError

    for _ in range(10):
        with pytest.raises(ZeroDivisionError):
            crew.map(work, range(12))
        assert working == [0]
    crew.stop()


def test_a_crew_that_nobody_asked_has_no_threads() -> None:
    """And one that was stopped has none either."""
    before = threading.active_count()
    crew = Crew(3)
    assert threading.active_count() == before
    crew.map(time.sleep, [0.001] * 9)
    crew.stop()
    assert threading.active_count() == before
