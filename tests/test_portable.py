"""Memories in files: whole or not there, and read back by whichever model embeds."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from fakes import ScriptedOllama, error
from fakes.ports import refusing_port

from ollama_async_mem import Memory
from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, OllamaError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def parts(folder: Path) -> Iterator[Path]:
    """What is left of exports that failed."""
    return folder.glob(".*.part")


async def test_a_memory_travels_in_a_file(server: ScriptedOllama, tmp_path: Path) -> None:
    """Turns, histories and waiting jobs come along, and coming twice changes nothing."""
    file = tmp_path / "memories.jsonl"
    async with Memory(tmp_path / "a.db", host=server.url, extract_here=False) as mem:
        added = await mem.add(["I like tea", "I met Bob yesterday"], user_id="alice", timestamp="2026-05-01")
        await mem.update(added.turns[0].id, "I like green tea")
        await mem.add("bob's", user_id="bob", infer=False)
        assert await mem.export(file, user_id="alice") == 2
        assert file.stat().st_mode & 0o777 == 0o600
        async with aclosing(mem.export_lines(user_id="alice")) as lines:
            assert b"".join([line async for line in lines]) == file.read_bytes()
        history = await mem.history(added.turns[0].id)
    before = len(server.requests_to("POST /api/embed"))
    async with Memory(tmp_path / "b.db", host=server.url, extract_here=False) as mem:
        told: list[tuple[int, int]] = []
        report = await mem.import_(file, on_progress=lambda done, total: told.append((done, total)))
        assert (report.turns, report.new, report.jobs, told[-1]) == (2, 2, 1, (2, 2))
        assert await mem.get(added.turns[1].id) == added.turns[1]
        assert await mem.history(added.turns[0].id) == history
        assert await mem.store.pending_jobs() == 1
        assert (await mem.import_(file)).new == 0
        assert [hit.text for hit in await mem.search("green", user_id="alice", limit=1)] == ["I like green tea"]
    assert len(server.requests_to("POST /api/embed")) == before + 1  # the query


async def test_vectors_of_the_same_model_need_no_server(server: ScriptedOllama, tmp_path: Path) -> None:
    """A backup can be read back while the model is away, also into an empty store, which takes more afterwards."""
    file = tmp_path / "memories.jsonl"
    async with Memory(tmp_path / "a.db", host=server.url) as mem:
        await mem.add(["I like tea", "I met Bob"], user_id="alice", infer=False)
        await mem.export(file)
    with refusing_port() as port:
        async with Memory(tmp_path / "b.db", host=f"127.0.0.1:{port}") as mem:
            assert (await mem.import_(file)).new == 2
    async with Memory(tmp_path / "b.db", host=server.url) as mem:
        await mem.add("I own a boat", user_id="alice", infer=False)
        assert [hit.text for hit in await mem.search("tea", user_id="alice", limit=1)] == ["I like tea"]


async def test_vectors_of_another_model_are_made_anew(server: ScriptedOllama, tmp_path: Path) -> None:
    """So is moving to another embedding model done."""
    file = tmp_path / "memories.jsonl"
    async with Memory(tmp_path / "a.db", host=server.url) as mem:
        await mem.add(["I like tea", "I met Bob"], user_id="alice", infer=False)
        await mem.export(file)
    async with Memory(tmp_path / "b.db", host=server.url, embedder="mxbai-embed-large") as mem:
        assert (await mem.import_(file)).new == 2
        assert [hit.text for hit in await mem.search("tea", user_id="alice", limit=1)] == ["I like tea"]
    with pytest.raises(EmbeddingMismatch):
        async with Memory(tmp_path / "b.db", host=server.url):
            pass
    server.enqueue("POST /api/embed", error(500, "no"), repeat=True)
    async with Memory(tmp_path / "c.db", host=server.url, embedder="mxbai-embed-large") as mem:
        with pytest.raises(OllamaError):
            await mem.import_(file)


async def test_what_cannot_be_written_or_read_is_said(server: ScriptedOllama, tmp_path: Path) -> None:
    """And no half of a file stays."""
    async with Memory(tmp_path / "a.db", host=server.url) as mem:
        await mem.add("I like tea", user_id="alice", infer=False)
        with pytest.raises(StoreError, match="cannot write"):
            await mem.export(tmp_path / "nowhere" / "x.jsonl")
        with pytest.raises(ConfigError, match="cannot read"):
            await mem.import_(tmp_path / "nothing.jsonl")
        (tmp_path / "other.jsonl").write_text("[]\n")
        with pytest.raises(ConfigError, match="not the header"):
            await mem.import_(tmp_path / "other.jsonl")
        with pytest.raises(StoreError, match="cannot write"):
            await mem.export(tmp_path)  # a folder
    assert not list(parts(tmp_path))


@pytest.mark.parametrize("path", [f"{__file__}/x.jsonl", "x" * 300, "\ud800", "a\0b", "", 5, None])
async def test_no_path_is_an_error_of_its_own(
    server: ScriptedOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any
) -> None:
    """A file for a folder, a name that is too long, and what is no path at all."""
    monkeypatch.chdir(tmp_path)
    async with Memory(tmp_path / "a.db", host=server.url) as mem:
        for call in (mem.export, mem.import_):
            with pytest.raises((ConfigError, StoreError), match=r"cannot (write|read)|path of a file is needed"):
                await call(path)
    assert not list(parts(tmp_path))


async def test_a_name_may_be_as_long_as_the_system_allows(server: ScriptedOllama, tmp_path: Path) -> None:
    """What is written on the way to it has a name of its own."""
    file = tmp_path / ("x" * 255)
    async with Memory(tmp_path / "a.db", host=server.url) as mem:
        await mem.add("I like tea", user_id="alice", infer=False)
        assert await mem.export(file) == 1
    assert file.exists()
    assert not list(parts(tmp_path))
