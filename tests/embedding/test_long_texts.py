"""Texts that are longer than the model's context: in pieces, cut by the server, or refused; never cut unsaid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest
from client.backends import on_both
from fakes import Reply, error
from fakes.ollama import default_answer
from fakes.vectors import text_vector
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem import EmbedderConfig
from ollama_async_mem.embedding.pieces import MOST_PIECES, cut, pooled, size_of, split, unit
from ollama_async_mem.errors import ConfigError, EmbeddingFailed, ModelNotFound

from .helpers import EMBED, Caller, embedding, sent

if TYPE_CHECKING:
    from fakes import ScriptedOllama
    from fakes.script import FixedAnswer, Request

TOO_LONG = "the input length exceeds the context length"


def limited(fake: ScriptedOllama, tokens: int, *, loaded: bool = True, per_token: float = 4) -> None:
    """A model with a context of so many tokens, which `truncate: false` has it insist on."""

    def embed(request: Request) -> FixedAnswer:
        texts = request.json["input"]
        is_over = any(math.ceil(len(text.encode()) / per_token) > tokens for text in texts)
        if is_over and request.json.get("truncate") is False:
            return error(400, TOO_LONG)
        return default_answer(request, fake.settings)

    sizes = {"general.architecture": "b", "b.context_length": 8 * tokens}
    fake.enqueue(EMBED, embed, repeat=True)
    fake.enqueue("POST /api/show", Reply(json={"model_info": sizes, "parameters": "num_ctx 999999"}), repeat=True)
    running = {"name": "m:latest", "model": "m:latest", "context_length": tokens}
    fake.enqueue("GET /api/ps", Reply(json={"models": [running] if loaded else []}), repeat=True)


def flags(fake: ScriptedOllama) -> list[Any]:
    """What `truncate` was in each request."""
    return [request.json.get("truncate") for request in fake.requests_to(EMBED) if request.json["input"]]


def story(count: int, word: str = "word") -> str:
    """A text of so many short sentences."""
    return " ".join(f"This is {word} {number}." for number in range(count))


@on_both
async def test_a_short_text_costs_one_request_and_no_question(fake: ScriptedOllama) -> None:
    """What any model takes is sent without asking how much it takes."""
    async with embedding(fake) as embedder:
        await embedder.embed("x" * 240)
    assert [request.route for request in fake.requests] == [EMBED]
    assert flags(fake) == [None]


@on_both
async def test_how_much_a_model_takes_is_asked_once(fake: ScriptedOllama) -> None:
    """Ten callers with longer texts ask together; what fits for sure then goes the cheap way again."""
    limited(fake, 2048)
    async with embedding(fake) as embedder, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(Caller(embedder, f"{number}" * 300))
    asked = [request.route for request in fake.requests if request.route != EMBED]
    assert asked == ["GET /api/ps", "POST /api/show"]
    assert set(flags(fake)) == {None}


@on_both
async def test_a_long_text_is_cut_at_sentences_and_its_pieces_pooled(fake: ScriptedOllama) -> None:
    """Pieces fit the context that is loaded, end where sentences end, and weigh what they are long."""
    limited(fake, 512)
    text = story(400)
    async with embedding(fake) as embedder:
        short, vector = await embedder.embed_documents(["short", text])
        assert (embedder.statistics.split, embedder.statistics.failed) == (1, 0)
    pieces = sent(fake)[0][1:]
    assert "".join(pieces) == text
    assert len(pieces) == math.ceil(len(text) / (3 * 496))
    assert all(piece.endswith(".") for piece in pieces)
    mean = sum(len(piece) * text_vector(piece, 256) for piece in pieces)
    assert abs(vector - mean / np.linalg.norm(mean)).max() < 1e-5
    assert abs(short - text_vector("short", 256)).max() < 1e-5
    assert not vector.flags.writeable
    assert flags(fake) == [False]


@on_both
async def test_a_text_of_more_tokens_than_expected_is_cut_again(fake: ScriptedOllama) -> None:
    """The server says what is too long; neighbours and pieces that fit are as ever."""
    limited(fake, 512, per_token=1)
    text = story(60)
    async with embedding(fake) as embedder:
        caller = Caller(embedder, "tea", "cake")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(embedder.embed_documents, ["a", text, "b"])
            tasks.start_soon(caller)
        assert caller.is_right
        requests = embedder.statistics.requests
        vector = await embedder.embed(text)
        assert (embedder.statistics.requests, embedder.statistics.failed) == (requests, 0)
    assert vector @ text_vector(text, 256) > 0.9


@on_both
async def test_the_longest_texts_are_suspected_first(fake: ScriptedOllama) -> None:
    """Eight too long ones among 64 cost fewer requests than eight searches through all."""
    limited(fake, 512, per_token=1)
    async with embedding(fake) as embedder:
        await embedder.embed("works")
        caller = Caller(embedder, *(f"{n} " * 250 if n % 8 == 0 else f"{n}" for n in range(64)))
        await caller()
        assert len(caller.vectors) == 64
        assert embedder.statistics.requests <= 1 + 1 + 3 * 2 + 14 + 1


@on_both
async def test_a_megabyte_is_embedded_in_bounded_work(fake: ScriptedOllama) -> None:
    """At most 32 pieces, evenly spread; ten such messages at once are not more each."""
    limited(fake, 512)
    async with embedding(fake) as embedder:
        texts = [story(50_000, word)[:1_000_000] for word in ("one", "two")]
        first, second = await embedder.embed_documents(texts)
        assert embedder.statistics.sent == 2 * MOST_PIECES
    assert first @ text_vector("This is one", 256) > second @ text_vector("This is one", 256)
    everything = "".join(text for texts in sent(fake) for text in texts)
    assert "one 0." in everything
    assert max(int(number) for number in everything.split("one ")[-1].partition(".")[0].split()) > 40_000


@on_both
async def test_the_server_may_cut_if_it_is_told_to(fake: ScriptedOllama) -> None:
    """`truncate`: one request with the whole text, and no question."""
    limited(fake, 512)
    async with embedding(fake, overflow="truncate") as embedder:
        await embedder.embed(story(4000))
    assert [request.route for request in fake.requests] == [EMBED]
    assert flags(fake) == [None]


@on_both
async def test_a_long_text_may_be_an_error(fake: ScriptedOllama) -> None:
    """`error`: that text fails, by its place."""
    limited(fake, 512)
    async with embedding(fake, overflow="error") as embedder:
        with pytest.raises(EmbeddingFailed, match=rf"texts\[1\] of 3 cannot be embedded: {TOO_LONG}.*overflow"):
            await embedder.embed_documents(["a", story(400), "b"])
        assert embedder.statistics.cached == 2
    with pytest.raises(ConfigError, match="allowed is 'split', 'truncate' or 'error'"):
        EmbedderConfig(overflow="cut")  # type: ignore[arg-type]


@on_both
async def test_a_context_that_is_not_loaded_is_not_relied_on(fake: ScriptedOllama) -> None:
    """Where the server does not say what is loaded, only `truncate: false` makes sure."""
    limited(fake, 512, loaded=False)
    async with embedding(fake) as embedder:
        await embedder.embed(story(100))
        await embedder.embed("y" * 300)
    assert flags(fake)[-1] is False


@on_both
async def test_a_server_that_tells_nothing_is_taken_for_a_small_one(fake: ScriptedOllama) -> None:
    """512 tokens: what it has of Ollama is /api/embed, and that refuses an empty list."""
    fake.enqueue(EMBED, error(400, "input is empty"))
    for route in ("GET /api/ps", "POST /api/show"):
        fake.enqueue(route, Reply(404, body="404 page not found"), repeat=True)
    async with embedding(fake) as embedder:
        await embedder.embed(story(200))
    assert 1 < len(sent(fake)[0]) < 5


@on_both
async def test_a_missing_model_is_said_and_asked_again(fake: ScriptedOllama) -> None:
    """It may be pulled meanwhile, and then its context counts."""
    limited(fake, 2048)
    fake._answers[EMBED].clear()
    fake.settings.only_listed = True
    async with embedding(fake) as embedder:
        with pytest.raises(ModelNotFound):
            await embedder.embed("z" * 300)
        fake.settings.models.append("m:latest")
        await embedder.embed("z" * 300)
    assert flags(fake) == [None]


@on_both
async def test_a_server_that_finds_everything_too_long_is_not_asked_for_ever(fake: ScriptedOllama) -> None:
    """Pieces of a few words that do not fit are a failure, not more pieces."""
    async with embedding(fake) as embedder:
        await embedder.embed("works")
        fake.enqueue(EMBED, error(400, TOO_LONG), repeat=True)
        with pytest.raises(EmbeddingFailed, match="exceeds the context"):
            await embedder.embed("w" * 200)
        assert embedder.statistics.requests < 20


@given(text=st.text(max_size=300), most=st.integers(1, 60))
def test_pieces_are_the_text(text: str, most: int) -> None:
    """Nothing but blank pieces is lost, and none is too long."""
    pieces = cut(text, most)
    assert all(len(piece) <= most for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert bool(pieces) == bool(text)


@given(text=st.text(st.characters(codec="utf-8"), max_size=2000), most=st.integers(4, 400))
def test_a_text_is_split_into_a_bounded_number_of_pieces(text: str, most: int) -> None:
    """One that fits stays whole."""
    pieces = split(text, most)
    assert len(pieces) <= MOST_PIECES
    if size_of(text) <= most:
        assert pieces == [text]


def test_a_piece_ends_where_a_text_is_best_cut() -> None:
    """Between paragraphs, else sentences of any script, else words, else anywhere."""
    assert cut("aaaa aaaa. aaa\n\naaa aaa. aaa", 20)[0] == "aaaa aaaa. aaa\n\n"
    assert cut("aaaa aaaa aaaa. aa aa aa", 17)[0] == "aaaa aaaa aaaa."
    assert cut("猫が好きです。犬も好きです。" * 2, 8)[0] == "猫が好きです。"
    assert cut("aaaa aaaa aaaa", 11)[0] == "aaaa aaaa "
    assert cut("a" * 25, 10) == ["a" * 10, "a" * 10, "a" * 5]
    assert cut("   ", 1) == [" "]


def test_pooling_and_normalising() -> None:
    """Weighted, at length one, and None where there is no direction."""
    x, y = (np.array(row, np.float32) for row in ([1, 0], [0, 1]))
    mean = pooled([x, y], [3, 4])
    assert mean is not None
    assert mean.tolist() == pytest.approx([0.6, 0.8])
    assert mean.dtype == np.float32
    assert pooled([x, -x], [1, 1]) is None
    assert unit(np.array([np.inf, 1], np.float32)) is None
    assert unit(np.array([np.nan, 1], np.float32)) is None
    assert unit(np.zeros(2, np.float32)) is None
