"""Work that threads share: all of it is done, in order, whoever does it."""

from __future__ import annotations

import sys
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
    crew, both, go = Crew(1), threading.Barrier(3, timeout=5), threading.Event()

    def hold(_: int) -> bool:
        both.wait()
        return go.wait(5)

    other = threading.Thread(target=crew.map, args=(hold, range(2)))
    other.start()
    both.wait()
    assert crew.map(lambda _: threading.current_thread(), range(9)) == [threading.current_thread()] * 9
    go.set()
    other.join()
    crew.stop()


def test_without_threads_the_caller_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many, or the interpreter ends."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    crew = Crew(2)
    assert crew.map(str, range(5)) == ["0", "1", "2", "3", "4"]
    crew.stop()
    assert crew.map(str, range(2)) == ["0", "1"]


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


def test_what_is_left_is_not_done_after_an_error() -> None:
    """Nobody would get it."""
    crew, worked = Crew(1), []

    def work(number: int) -> None:
        worked.append(number)
        time.sleep(0.001)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crew.map(work, range(1000))
    assert len(worked) <= 2
    crew.stop()


def test_threads_are_there_as_long_as_they_are_needed() -> None:
    """From the first call to the end."""
    before, crew = set(threading.enumerate()), Crew(3)  # helpers of other crews may still be ending
    assert set(threading.enumerate()) <= before
    crew.map(time.sleep, [0.001] * 9)
    helpers = set(threading.enumerate()) - before
    assert [helper.name for helper in helpers] == ["store-helper"] * 3
    crew.stop()
    for helper in helpers:
        helper.join(5)
    assert not any(helper.is_alive() for helper in helpers)


def test_threads_that_call_first_at_once_start_the_helpers_once() -> None:
    """Each of them has its own result."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            crew, begin = Crew(2), threading.Barrier(4, timeout=5)
            found: list[list[int]] = []

            def call(crew: Crew = crew, begin: threading.Barrier = begin, found: list[list[int]] = found) -> None:
                begin.wait()
                found.append(crew.map(abs, range(5)))

            callers = [threading.Thread(target=call, daemon=True) for _ in range(4)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join(5)
            assert found == [[0, 1, 2, 3, 4]] * 4
            assert crew._started == 2
            crew.stop()
    finally:
        sys.setswitchinterval(interval)
