"""`open_store` finds the store that a URL names, and touches nothing before it is opened."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ollama_async_mem.errors import ConfigError, StoreError
from ollama_async_mem.records import Selection
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores.samples import ALICE, MODEL, about, add, axis, everything, turn


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


@pytest.mark.parametrize("url", ["~nobody-of-this-name/memory.db", "sqlite:///~nobody-of-this-name/memory.db"])
def test_the_home_folder_of_nobody_is_refused(url: str) -> None:
    """A home folder that cannot be found is a ConfigError that names the path."""
    with pytest.raises(ConfigError, match=r"'~nobody-of-this-name/memory.db' lies in a home folder that is not known"):
        open_store(url)


async def test_a_store_that_must_exist_is_not_made(tmp_path: Path) -> None:
    """Without `create` a missing file or folder is a StoreError that names it, and nothing is made; others open."""
    for missing in (tmp_path / "typo.db", tmp_path / "deep" / "er" / "memory.db"):
        with pytest.raises(StoreError, match=f"no store at {missing}"):
            await open_store(missing, create=False).__aenter__()
        assert not list(tmp_path.iterdir())  # noqa: ASYNC240 - a test folder
    async with open_store(tmp_path / "memory.db") as store:
        await add(store, turn("kept"))
    async with open_store(tmp_path / "memory.db", create=False) as store:
        assert await everything(store, ALICE) == ["kept"]
    async with open_store("sqlite://", create=False) as store:
        assert await everything(store, ALICE) == []


async def test_what_is_made_is_private_and_what_was_there_stays_as_it_was(tmp_path: Path) -> None:
    """New folders are 0700 and new files 0600, the log's too, whatever the umask; modes that exist are kept."""
    before = os.umask(0)
    try:
        folder = tmp_path / "open"
        await asyncio.to_thread(folder.mkdir, 0o755)
        (folder / "old.db").touch(0o644)
        for name in ("deep/er/memory.db", "new.db", "old.db"):
            async with open_store(folder / name) as store:
                await add(store, turn())
                found = {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*")}
                logs = {f"{name}{end}" for end in ("", "-wal", "-shm")}
                assert {found[log] for log in logs} == {0o644 if name == "old.db" else 0o600}
        assert (found["deep"], found["deep/er"], stat.S_IMODE(folder.stat().st_mode)) == (0o700, 0o700, 0o755)
    finally:
        os.umask(before)


async def test_a_link_to_a_file_that_is_missing_makes_it_private(tmp_path: Path) -> None:
    """A symbolic link to nowhere is followed, and what is made there is for this account only."""
    target, link = tmp_path / "target.db", tmp_path / "link.db"
    link.symlink_to(target)
    async with open_store(link) as store:
        await add(store, turn())
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


async def test_odd_names_are_names(tmp_path: Path) -> None:
    """Quotes, spaces, percent signs and question marks in a path are part of it."""
    path = tmp_path / "it's %20 a file?mode=ro#x.db"
    async with open_store(path) as store:
        await add(store, turn("kept"))
    assert path.exists()


@pytest.mark.parametrize("url", ["postgresql://host/db", "postgres://host"])
def test_postgresql_is_not_connected_before_it_is_opened(url: str) -> None:
    """A PostgreSQL URL makes a store that says where it is."""
    assert open_store(url).location == url


@pytest.mark.parametrize(
    "url",
    [
        "mysql://x",
        "postgresql+asyncpg://host",
        "http://x/y.db",
        "",
        "sqlite:///",
        "sqlite://host/x.db",
        "sqlite:///?durability=full",
        "a\0b",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    """A URL that names no store is a ConfigError that says what is allowed."""
    with pytest.raises(ConfigError, match="allowed: sqlite:///"):
        open_store(url)


@pytest.mark.parametrize("options", ["mode=ro", "durability=full&a=b", "tokenize=a&tokenize=a", "tokenize", "a&b", "="])
def test_other_options_are_refused(options: str) -> None:
    """What a sqlite URL does not take is a ConfigError that says what it does; values are not shown."""
    with pytest.raises(ConfigError, match=r"tokenize=, durability= and cache_bytes=|name=value"):
        open_store(f"sqlite:///x.db?{options}")
    with pytest.raises(ConfigError) as caught:
        open_store("sqlite:///x.db?password=s3cret")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match="'full' or 'relaxed', got 'fast'"):
        open_store("sqlite:///x.db?durability=fast")
    for size in ("", "-1", "64MB", "1.5", "\u0663", "9" * 19):
        with pytest.raises(ConfigError, match="cache_bytes in a sqlite URL is a number of bytes"):
            open_store(f"sqlite:///x.db?cache_bytes={size}")


async def test_options_of_a_url(tmp_path: Path) -> None:
    """A tokenizer is for a file that is new, and one that is unknown is refused on opening."""
    async with open_store(f"sqlite:///{tmp_path}/a.db?tokenize=trigram&durability=relaxed") as store:
        await add(store, turn("peanuts"))
        assert await about(store, ALICE, "eanut") == ["peanuts"]
    async with open_store("sqlite://?tokenize=unicode61+remove_diacritics%202") as store:
        await add(store, turn("peanuts"))
        assert await about(store, ALICE, "peanut") == []
    async with open_store(f"sqlite:///{tmp_path}/a.db?cache_bytes=0") as store:
        assert isinstance(store, SQLiteStore)
        assert store._nearest.cache.max_bytes == 0
        assert await about(store, ALICE, "eanut") == ["peanuts"]
        assert len(await store.dense_candidates(Selection(scope=ALICE), axis(1), model=MODEL, limit=5)) == 1
    with pytest.raises(ConfigError, match="FTS5 has no tokenizer 'klingon'"):
        await open_store(f"sqlite:///{tmp_path}/b.db?tokenize=klingon").__aenter__()


async def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which version there is and which is needed; no file is made."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreError, match=r"needs 3\.35\.0: use a newer Python"):
        await open_store(tmp_path / "a.db").__aenter__()
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240 - a test folder


def test_importing_the_package_loads_neither_numpy_nor_sqlite() -> None:
    """The implementation is imported when a store is asked for."""
    code = (
        "import sys, ollama_async_mem.stores as s; assert not {'numpy', 'sqlite3'} & set(sys.modules);"
        "s.open_store('sqlite://'); assert {'numpy', 'sqlite3'} < set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own interpreter


async def test_an_empty_file_is_no_store_unless_one_may_be_made(tmp_path: Path) -> None:
    """It may be a store that was cut off, which must not be called sound."""
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(StoreError, match="there is no store at"):
        async with open_store(path, create=False):
            pass
    assert path.stat().st_size == 0
    async with open_store(path) as store:
        assert await store.check() == []
