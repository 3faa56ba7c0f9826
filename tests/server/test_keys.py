"""API keys: made, shown once, bound, rotated, revoked, and what a running server makes of a changed file."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from ollama_async_mem.cli.main import USAGE, run
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.server import keys
from ollama_async_mem.server.keys import KeyFile, KeyRing, default_key_file

if TYPE_CHECKING:
    from pytest import CaptureFixture, MonkeyPatch  # noqa: PT013


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    """A file of keys that is not there yet, nor is its folder."""
    return KeyFile(tmp_path / "new" / "keys.json")


def ring(file: KeyFile) -> KeyRing:
    """What a server reads of it."""
    found = KeyRing(file)
    found.load()
    return found


def test_a_key_is_known_by_its_hash_alone(file: KeyFile) -> None:
    """What is shown to the owner stands in no file, and it is what opens the door."""
    key, text = file.create("phone", user_id="alice", may_write=False)
    assert text.startswith(f"oam_{key.id}_")
    assert len(text.split("_", 2)[2]) == 43
    assert text.split("_", 2)[2] not in file.path.read_text()
    found = ring(file).find(text)
    assert found == key
    assert found.principal.user_id == "alice"
    assert not found.principal.may_write
    assert not found.principal.admin


def test_only_the_very_key_is_good(file: KeyFile) -> None:
    """Not another secret, not another id, not a part, and not words of any kind."""
    key, text = file.create("phone")
    other, _ = file.create("desk")
    secret = text.split("_", 2)[2]
    for wrong in (
        "",
        "oam_",
        f"oam_{key.id}",
        f"oam_{key.id}_",
        text[:-1],
        text + "x",
        f"oam_{other.id}_{secret}",
        secret,
        key.sha256,
        f"oam_{key.id}_{key.sha256}",
        "\udcff\x00",
    ):
        assert ring(file).find(wrong) is None, wrong


def test_a_rotated_key_has_a_new_secret_and_the_same_bounds(file: KeyFile) -> None:
    """The old one is worth nothing."""
    key, old = file.create("phone", user_id="alice")
    rotated, new = file.rotate(key.id)
    assert ring(file).find(old) is None
    assert ring(file).find(new) == rotated
    assert (rotated.id, rotated.user_id) == (key.id, "alice")


def test_a_revoked_key_stays_in_the_list_and_comes_never_back(file: KeyFile) -> None:
    """Neither by revoking nor by rotating again."""
    key, text = file.create("phone")
    file.revoke(key.id)
    assert ring(file).find(text) is None
    assert ring(file).is_needed, "a server whose keys are all revoked is not open to everybody"
    assert not ring(file).has_active
    for change in (file.revoke, file.rotate):
        with pytest.raises(ConfigError, match="no key"):
            change(key.id)
    assert [k.name for k in file.read()] == ["phone"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes are of POSIX")
def test_the_file_is_its_owners_alone(file: KeyFile) -> None:
    """Nobody else may read it, and one that others can write is not believed."""
    file.create("phone")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.path.chmod(0o620)
    with pytest.raises(ConfigError, match="chmod 600"):
        file.read()


def test_what_is_no_file_of_keys_is_said(file: KeyFile) -> None:
    """A broken file is an error with its name, for a command and at the start of a server."""
    file.path.parent.mkdir()
    for content in (b"", b"{", b'{"keys": [{"id": 1}]}', b"\xff"):
        file.path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"keys\.json"):
            file.read()
        with pytest.raises(ConfigError, match=r"keys\.json"):
            ring(file)


def test_changes_at_once_are_all_kept(file: KeyFile) -> None:
    """Each waits for the other."""
    threads = [threading.Thread(target=file.create, args=(f"k{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in file.read()} == {f"k{number}" for number in range(8)}
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def test_a_running_server_follows_the_file(file: KeyFile, monkeypatch: MonkeyPatch) -> None:
    """New keys, revoked ones, and a file that breaks or goes away: then no key is good, and none is needed less."""
    monkeypatch.setattr(keys, "_FRESH_S", 0.0)
    seen = KeyRing(file)
    anyio.run(seen.refresh)
    assert seen.is_needed is False
    key, text = file.create("phone")
    anyio.run(seen.refresh)
    assert seen.find(text) == key
    file.revoke(key.id)
    anyio.run(seen.refresh)
    assert seen.find(text) is None
    _, text = file.create("desk")
    content = file.path.read_bytes()
    file.path.write_bytes(b"{")
    anyio.run(seen.refresh)
    assert seen.find(text) is None
    file.path.write_bytes(content)
    anyio.run(seen.refresh)
    assert seen.find(text) is not None
    file.path.unlink()
    anyio.run(seen.refresh)
    assert seen.find(text) is None
    assert seen.is_needed


def test_the_file_is_not_looked_at_for_each_request(file: KeyFile) -> None:
    """Twice in a moment is once."""
    seen = KeyRing(file)
    anyio.run(seen.refresh)
    file.create("phone")
    anyio.run(seen.refresh)
    assert not seen.is_needed


def test_keys_lie_beside_the_store(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    """Where the store is a file; else in the user's data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_key_file("/var/m.db") == Path("/var/m.db.keys.json")
    assert default_key_file("sqlite:////var/m.db?tokenize=trigram") == Path("/var/m.db.keys.json")
    in_folder = default_key_file("postgresql://user:secret@host/m")
    assert in_folder == default_key_file("sqlite://") == default_key_file(":memory:")
    assert in_folder.name == "keys.json"


def test_the_commands(capsys: CaptureFixture[str], tmp_path: Path) -> None:
    """Made, listed, rotated and revoked from the command line; the secret is on standard output alone."""
    path = str(tmp_path / "keys.json")
    assert run(["keys", "create", "phone", "--user", "alice", "--read-only", "--keys", path]) == 0
    text, explained = capsys.readouterr()
    key_id = text.split("_")[1]
    assert text.startswith("oam_")
    assert text.strip() not in explained
    assert "user alice, read only" in explained
    assert run(["keys", "list", "--keys", path, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["keys"]
    assert [(k["id"], k["user_id"], k["may_write"]) for k in listed] == [(key_id, "alice", False)]
    assert "sha256" not in listed[0]
    assert run(["keys", "rotate", key_id, "--keys", path]) == 0
    assert capsys.readouterr().out.startswith(f"oam_{key_id}_")
    assert run(["keys", "revoke", key_id, "--keys", path]) == 0
    assert run(["keys", "revoke", key_id, "--keys", path]) == USAGE
    assert run(["keys", "list", "--keys", path]) == 0
    assert "revoked" in capsys.readouterr().out


def test_the_commands_find_the_file_of_the_store(capsys: CaptureFixture[str]) -> None:
    """Without --keys."""
    assert run(["keys", "create", "phone", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == f"{os.environ['OLLAMA_ASYNC_MEM_STORE']}.keys.json"
