"""Adds that share transactions: who hears of a failure, and that the writers go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.errors import StoreClosed, StoreError
from ollama_async_mem.records import EmbeddingSpace
from ollama_async_mem.stores._postgres_groups import WRITERS, Addition, Additions

if TYPE_CHECKING:
    from collections.abc import Sequence

SPACE = EmbeddingSpace("embedder:1", 1)


def addition(name: str) -> Addition:
    """An addition of one row."""
    return Addition([(name,)], SPACE)


class Shelf:
    """Where additions are stored; what is called "broken" breaks it, what is called "wrong" it refuses."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    async def store(self, additions: Sequence[Addition]) -> None:
        await asyncio.sleep(0)
        names = [row[0] for addition in additions for row in addition.rows]
        if "broken" in names:
            raise ZeroDivisionError(str(names))
        if "wrong" in names:
            raise StoreError("wrong")
        self.stored += names


async def test_an_unexpected_error_reaches_its_callers_and_the_writers_go_on() -> None:
    """More errors than there are writers leave nobody waiting, and what comes after them is stored."""
    shelf = Shelf()
    additions = Additions(shelf.store, where="here")
    async with asyncio.timeout(10):
        for n in range(2 * WRITERS):
            with pytest.raises(ZeroDivisionError):
                await additions.add(addition("broken"))
            await additions.add(addition(str(n)))
        many = [additions.add(addition("broken")) for _ in range(50)]
        ends = await asyncio.gather(*many, return_exceptions=True)
        assert {type(end) for end in ends} == {ZeroDivisionError}
        await additions.add(addition("last"))
        await additions.stop()
    assert shelf.stored == [*map(str, range(2 * WRITERS)), "last"]
    with pytest.raises(StoreClosed):
        await additions.add(addition("late"))


async def test_who_is_not_to_blame_is_stored() -> None:
    """Of additions that were to be stored together only those fail that are refused."""
    shelf = Shelf()
    additions = Additions(shelf.store, where="here")
    names = ["wrong" if n % 5 == 0 else str(n) for n in range(100)]
    ends = await asyncio.gather(*(additions.add(addition(name)) for name in names), return_exceptions=True)
    await additions.stop()
    assert [isinstance(end, StoreError) for end in ends] == [name == "wrong" for name in names]
    assert sorted(shelf.stored) == sorted(name for name in names if name != "wrong")
