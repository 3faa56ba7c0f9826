"""`open_store` finds the store that a URL names, and touches nothing before it is opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.stores import open_store
from stores.samples import ALICE, add, everything, turn


@pytest.mark.parametrize("url", ["sqlite:///deep/er/memory.db", "deep/er/memory.db", Path("deep/er/memory.db")])
async def test_relative_paths_and_their_folders(
    url: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path counts from the current folder; missing folders are made on opening, not before."""
    monkeypatch.chdir(tmp_path)
    store = open_store(url)
    assert store.location == "deep/er/memory.db"
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240 - a test folder
    async with store:
        await add(store, turn("kept"))
    async with open_store(f"sqlite:///{tmp_path}/deep/er/memory.db") as again:
        assert again.location == f"{tmp_path}/deep/er/memory.db"
        assert await everything(again, ALICE) == ["kept"]


@pytest.mark.parametrize("url", ["sqlite:///~/memory.db", "~/memory.db"])
async def test_the_home_folder(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    async with open_store(url) as store:
        assert store.location == str(tmp_path / "memory.db")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", ":memory:"])
async def test_stores_in_memory_are_apart_and_forget(url: str) -> None:
    """Two stores in memory share nothing, and one that is opened again is empty."""
    store, other = open_store(url), open_store(url)
    async with store, other:
        await add(store, turn("kept"))
        assert await everything(store, ALICE) == ["kept"]
        assert await everything(other, ALICE) == []
    async with store:
        assert await everything(store, ALICE) == []


async def test_odd_names_are_names(tmp_path: Path) -> None:
    """Quotes, spaces, percent signs and question marks in a path are part of it."""
    path = tmp_path / "it's %20 a file?mode=ro#x.db"
    async with open_store(path) as store:
        await add(store, turn("kept"))
    assert path.exists()


@pytest.mark.parametrize("url", ["postgresql://host/db", "postgres://host", "postgresql+asyncpg://host"])
def test_postgresql_is_not_there_yet(url: str) -> None:
    """A PostgreSQL URL says that this version cannot, and what it can."""
    with pytest.raises(ConfigError, match=r"not supported yet by this version; allowed: sqlite:///"):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["mysql://x", "http://x/y.db", "", "sqlite:///", "sqlite://host/x.db", "sqlite:///x.db?mode=ro", "a\0b"]
)
def test_other_urls_are_refused(url: str) -> None:
    """A URL that names no store is a ConfigError that says what is allowed."""
    with pytest.raises(ConfigError, match=r"allowed: sqlite:///|takes none"):
        open_store(url)


def test_importing_the_package_loads_neither_numpy_nor_sqlite() -> None:
    """The implementation is imported when a store is asked for."""
    code = (
        "import sys, ollama_async_mem.stores as s; assert not {'numpy', 'sqlite3'} & set(sys.modules);"
        "s.open_store('sqlite://'); assert {'numpy', 'sqlite3'} < set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own interpreter
