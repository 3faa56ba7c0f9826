"""Tasks that come at once pass a few at a time, in order, and nobody is kept for ever."""

from __future__ import annotations

import asyncio

import pytest

from ollama_async_mem.memory.turnstile import Turnstile


async def passed(turnstile: Turnstile, count: int) -> list[int]:
    """In which round of the loop each of some tasks passes."""
    rounds: list[int] = []
    now = 0

    async def go() -> None:
        await turnstile.wait()
        rounds.append(now)

    tasks = [asyncio.create_task(go()) for _ in range(count)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        now += 1
    return rounds


@pytest.mark.parametrize(("most", "count"), [(1, 1), (1, 5), (3, 3), (3, 10), (32, 100)])
async def test_some_pass_in_each_round(most: int, count: int) -> None:
    """As many as may, and no more; again and again."""
    turnstile = Turnstile(most)
    for _ in range(3):
        rounds = await passed(turnstile, count)
        assert len(rounds) == count
        assert max(rounds.count(number) for number in rounds) <= most
        assert max(rounds) <= count // most + 2
        await asyncio.sleep(0.001)


async def test_who_comes_alone_does_not_wait() -> None:
    """Not even for a round of the loop."""
    waiting = Turnstile(1).wait()
    with pytest.raises(StopIteration):
        waiting.send(None)


async def test_they_pass_in_the_order_in_which_they_come() -> None:
    """But those that gave up, whose turn is the next one's."""
    turnstile, order = Turnstile(1), list[int]()

    async def go(number: int) -> None:
        await turnstile.wait()
        order.append(number)

    tasks = [asyncio.create_task(go(number)) for number in range(6)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    tasks[5].cancel()
    await asyncio.wait(tasks)
    assert order == [0, 1, 3, 4]
    await asyncio.wait_for(turnstile.wait(), 1)


def test_a_loop_that_ended_at_once_keeps_nobody_of_the_next_one() -> None:
    """It was closed before its next round."""
    turnstile = Turnstile(1)
    loop = asyncio.new_event_loop()
    loop.call_soon(loop.stop)
    task = loop.create_task(turnstile.wait())
    loop.run_forever()
    assert task.done()
    loop.close()

    async def again() -> None:
        await asyncio.wait_for(asyncio.gather(*(turnstile.wait() for _ in range(3))), 1)

    asyncio.run(again())
