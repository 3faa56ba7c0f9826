"""A second look at the best hits: its scores count, and where it fails the search goes on without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.errors import OllamaError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollama_async_mem import Memory

SAID = ["I keep bees behind the house.", "My bees make honey in June.", "Bees sting when it rains."]


class Lengths:
    """Finds that the longer a text, the better it fits."""

    def __init__(self, answer: Sequence[float] | Exception | None = None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, list[str]]] = []

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return the answer that was given, else lengths."""
        self.asked.append((query, list(texts)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return [len(text) / 100 for text in texts] if self.answer is None else self.answer


async def test_its_scores_order_the_hits(memory: Callable[..., Memory]) -> None:
    """It sees more hits than are asked for, and says which of them come first."""
    reranker = Lengths()
    async with memory(reranker=reranker) as mem:
        await mem.add(SAID, user_id="ann", infer=False)
        found = await mem.search("bees?", user_id="ann", limit=2, explain=True)
        assert [hit.text for hit in found] == sorted(SAID, key=len, reverse=True)[:2]
        assert [hit.score for hit in found] == [len(hit.text) / 100 for hit in found]
        assert all(hit.parts["reranked"] == hit.score != hit.parts["ranked"] for hit in found)
        assert found.degraded == ()
        assert not (await mem.search("bees?", user_id="ann", min_score=0.9)).hits
        assert not (await mem.search("bees?", user_id="nobody")).hits
    (query, texts), *_ = reranker.asked
    assert (query, sorted(texts)) == ("bees?", sorted(SAID))
    assert all(texts for _, texts in reranker.asked)


@pytest.mark.parametrize("answer", [OllamaError("it is away"), [0.5], [0.1, 0.2, float("nan")]])
async def test_without_it_hits_keep_their_order(
    memory: Callable[..., Memory], answer: Exception | list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """It is away, or gives no score for each text: the result says so."""
    async with memory(reranker=Lengths(answer)) as mem, memory() as plain:
        await mem.add(SAID, user_id="ann", infer=False)
        found = await mem.search("bees?", user_id="ann", limit=2)
        assert [(hit.text, hit.score) for hit in found] == [
            (hit.text, hit.score) for hit in await plain.search("bees?", user_id="ann", limit=2)
        ]
    assert found.degraded == ("reranker",)
    assert "the reranker failed" in caplog.text


async def test_a_bug_in_it_is_not_hidden(memory: Callable[..., Memory]) -> None:
    """What is no error of ours is raised."""
    async with memory(reranker=Lengths(ZeroDivisionError())) as mem:
        await mem.add(SAID, user_id="ann", infer=False)
        with pytest.raises(ZeroDivisionError):
            await mem.search("bees?", user_id="ann")
