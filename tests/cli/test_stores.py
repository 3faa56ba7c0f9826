"""The commands on whole stores, in this process and in a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from stores import files
from stores.conftest import files_of_asyncpg  # noqa: F401 - a fixture for all tests here
from stores.samples import axis, dump_all, turn

from cli.calls import ran
from cli.test_terminal import Terminal
from ollama_async_mem.cli.main import FAILED, INTERRUPTED, USAGE, run
from ollama_async_mem.stores import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from pytest import CaptureFixture, MonkeyPatch  # noqa: PT013

    from ollama_async_mem.records import StoredMemory

SECRET = "s3cr/et@word"


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A store of a thousand turns with a job, as the default of the commands."""
    path = tmp_path / "full.db"

    async def make() -> None:
        async with open_store(path) as store:
            said = [turn(f"peanut {i}") for i in range(1000)]
            await store.add_turns(said, [axis(1, i) for i in range(1000)], model="m", extract=True)

    asyncio.run(make())
    return path


def held(path: Path) -> list[StoredMemory]:
    """All that a store holds."""

    async def read() -> list[StoredMemory]:
        async with open_store(path, create=False) as store:
            return await dump_all(store, limit=1000)

    return asyncio.run(read())


def test_copy(full: Path, tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    """A copy has it all, and copying again finds nothing new; results are told to programs and to people."""
    target = tmp_path / "new" / "copy.db"
    report = {"source": str(full), "target": str(target), "turns": 1000, "facts": 0, "jobs": 1, "new": 1000}
    report |= {"differing": 0, "examples": []}
    assert ran(capsys, "store", "copy", str(full), f"sqlite:///{target}") == report
    assert held(full) == held(target)
    assert run(["store", "copy", str(full), str(target)]) == 0
    out, err = capsys.readouterr()
    assert "turns: 1,000, facts: 0, new of these: 0, jobs: 1" in out
    assert err == ""


def test_copy_tells_what_differs(full: Path, tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    """What the target has in another state stays as it is; it is counted and named, and the exit code is 1."""
    target = tmp_path / "copy.db"
    assert run(["store", "copy", str(full), str(target)]) == 0
    files.execute(target, "UPDATE memories SET metadata = '{}' WHERE seq <= 12")
    before, ids = held(target), [one.memory.id for one in held(target)[:10]]
    files.execute(full, "UPDATE memories SET speaker = 'Ann' WHERE seq <= 12")
    capsys.readouterr()
    assert run(["store", "copy", str(full), str(target)]) == FAILED
    out = capsys.readouterr().out
    assert "12 memories are there in another state" in out
    assert run(["store", "copy", str(full), str(target), "--json"]) == FAILED
    report = json.loads(capsys.readouterr().out)
    assert (report["new"], report["differing"], report["examples"]) == (0, 12, ids)
    assert held(target) == before


def test_a_store_is_not_copied_to_itself(
    full: Path, tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    """By whatever names it goes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(full)
    for other in (str(full), "full.db", f"sqlite:///{full}", "link.db", "./x/../full.db"):
        assert run(["store", "copy", str(full), other]) == USAGE
        assert "the same store" in capsys.readouterr().err


def test_check(full: Path, capsys: CaptureFixture[str]) -> None:
    """A store that is sound has exit code 0; what is wrong with another is listed, and the code is 1."""
    assert ran(capsys, "store", "check", str(full)) == {"store": str(full), "wrong": []}
    assert run(["store", "check", str(full)]) == 0
    assert "is sound" in capsys.readouterr().out
    files.execute(full, "DELETE FROM vectors WHERE seq = 1")
    assert run(["store", "check", str(full), "--json"]) == FAILED
    assert any("1 memories have no vector" in wrong for wrong in json.loads(capsys.readouterr().out)["wrong"])
    assert run(["store", "check", str(full)]) == FAILED
    out = capsys.readouterr().out
    assert "1 memories have no vector" in out
    assert "is damaged" in out


def test_optimize(full: Path, capsys: CaptureFixture[str]) -> None:
    """The size is told as it was and is, in units that people read."""
    before = held(full)
    sizes = ran(capsys, "store", "optimize", str(full))
    assert sizes.keys() == {"store", "size_bytes_before", "size_bytes"}
    assert run(["store", "optimize", str(full)]) == 0
    assert " kB, before " in capsys.readouterr().out
    assert held(full) == before


def test_backup_of_the_default_store(
    full: Path, tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    """The store is that of --store or of the environment; a file that is there is not replaced."""
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    assert ran(capsys, "store", "backup", str(first), "--store", str(full))["size_bytes"] == first.stat().st_size
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_STORE", str(full))
    assert run(["store", "backup", str(second)]) == 0
    assert f"backed up {full} to {second}, " in capsys.readouterr().out
    assert held(first) == held(second) == held(full)
    assert run(["store", "backup", str(second)]) == FAILED
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["copy", "check", "optimize", "backup"])
def test_what_is_not_there_is_not_made(
    command: str, tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    """A mistyped path of a store that is to be read is an error, and so is a default store that is not there yet."""
    missing, target = tmp_path / "nowhere" / "typo.db", tmp_path / "target.db"
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_STORE", str(missing))
    arguments = {"copy": [str(missing), str(target)], "backup": [str(target)]}
    assert run(["store", command, *arguments.get(command, [])]) == FAILED
    assert str(missing) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_model_is_left_alone(full: Path, tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    """The error names both models."""

    async def make() -> None:
        async with open_store(tmp_path / "other.db") as store:
            await store.add_turns([turn("mine")], [axis(1)], model="another")

    asyncio.run(make())
    assert run(["store", "copy", str(full), str(tmp_path / "other.db")]) == FAILED
    err = capsys.readouterr().err
    assert "embeddings of another with 8" in err
    assert "uses m with 8" in err
    assert [stored.memory.text for stored in held(tmp_path / "other.db")] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["copy", "a.db"], USAGE),
        (["copy", "mysql://ann:{}@nowhere/x", "a.db"], USAGE),
        (["copy", "a.db", "mysql://ann:{}@nowhere/x"], USAGE),
        (["copy", "a.db", "b.db", "postgresql://ann:{}@nowhere/x"], USAGE),
        (["copy", "a.db", "b.db", "postgres:/ann:{}@nowhere/x?password={}&port=1"], USAGE),
        (["check", "postgresql://ann:{}@127.0.0.1:1/x"], USAGE),
        (["check", "postgresql://ann:p%40{}@127.0.0.1:1/x?password={}"], USAGE),
        (["check", "postgresql://ann:qu1et@127.0.0.1:1/x?password=qu1et"], FAILED),
        (["check", "postgres:/ann:{}@127.0.0.1:1/x"], USAGE),
        (["check", "--json=postgresql://ann:{}@nowhere/x"], USAGE),
        (["optimize", "sqlite:///x.db?password={}"], USAGE),
        (["backup", "--store", "postgresql://ann:{}@nowhere/x"], USAGE),
    ],
)
def test_wrong_arguments_show_no_password(
    arguments: list[str], code: int, tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    """Wherever a URL with a password stands, whatever is wrong with it, what is said is one line without it."""
    monkeypatch.chdir(tmp_path)
    given = ["store", *(argument.replace("{}", SECRET) for argument in arguments)]
    for form in ([], ["--json"]):
        assert run([*given, *form]) == code
        out, err = capsys.readouterr()
        assert not any(secret in out + err for secret in ("cr/et", "word@", "qu1et"))
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert bool(out) == bool(form)


def test_ctrl_c_leaves_a_copy_that_goes_on(full: Path, tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    """A terminal shows a bar; Ctrl-C ends the copy with 130 and a word about going on, which it does."""
    target = tmp_path / "copy.db"
    asyncio.run(files.checked(target))  # makes it
    with closing(sqlite3.connect(target, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # the copy has to wait
        terminal = Terminal("store", "copy", str(full), str(target), environment=dict(os.environ))
        terminal.expect("copying")
        terminal.interrupt()
        other.execute("ROLLBACK")
    terminal.expect("goes on")
    assert terminal.exit_status() == INTERRUPTED
    assert len(held(target)) in {0, 500}
    assert ran(capsys, "store", "copy", str(full), str(target))["turns"] == 1000
    assert held(full) == held(target)


@pytest.mark.parametrize("command", [[], ["copy"], ["check"], ["optimize"], ["backup"]])
def test_help(command: list[str], capsys: CaptureFixture[str]) -> None:
    """Every command explains itself."""
    assert run(["store", *command, "--help"]) == 0
    assert "Usage: ollama-async-mem store" in capsys.readouterr().out
