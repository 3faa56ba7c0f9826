"""API keys in one JSON file: made, rotated, revoked, and read again when the file changes. Knows nothing of HTTP.

A key is `oam_<id>_<secret>`. The file holds its SHA-256 and not the key: 256 random bits need no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec
from msgspec.structs import replace

from ollama_async_mem.config.settings import data_folder
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.server.access import Principal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PREFIX", "Key", "KeyFile", "KeyRing", "default_key_file"]

PREFIX = "oam_"
_FRESH_S = 0.5  # how long a revoked key may still work on a running server
_NO_DIGEST = "0" * 64
_WRITABLE_BY_OTHERS = 0o022
_log = logging.getLogger(__name__)


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A key as the file keeps it: what it is bound to, and the hash of what its owner shows.

    A field that is not known could be one more bound: a file with it is not read.
    """

    id: str
    name: str
    sha256: str
    created_at: datetime
    user_id: str | None = None
    agent_id: str | None = None
    may_write: bool = True
    admin: bool = False
    revoked_at: datetime | None = None

    @property
    def principal(self) -> Principal:
        """Who shows this key."""
        return Principal(
            name=self.name, user_id=self.user_id, agent_id=self.agent_id, may_write=self.may_write, admin=self.admin
        )


class _Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int = 1
    keys: tuple[Key, ...] = ()


class KeyFile:
    """The keys of a file. Each change is written at once and as a whole; the folder is made where it is missing.

    Every method raises ConfigError where the file cannot be read or written, or others than its owner may write it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()

    def read(self) -> tuple[Key, ...]:
        """Return all keys, oldest first, the revoked ones too."""
        try:
            mode = self.path.stat().st_mode
            content = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise ConfigError(f"cannot read the keys in {self.path}: {exc.strerror}") from exc
        if sys.platform != "win32" and mode & _WRITABLE_BY_OTHERS:
            raise ConfigError(f"others can write {self.path}, and so make keys for themselves: chmod 600 {self.path}")
        try:
            return msgspec.json.decode(content, type=_Content).keys
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{self.path} is no file of keys: {exc}") from exc

    def create(
        self,
        name: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        may_write: bool = True,
        admin: bool = False,
    ) -> tuple[Key, str]:
        """Make a key; returns it and, this once, what its owner shows.

        Raises:
            ConfigError: it is bound to an empty name, as a variable that is not set gives one, or is one of an admin
                who may only read.
        """
        if admin and not may_write:
            raise ConfigError("an admin may change everything: leave out --read-only or --admin")
        if "" in {user_id, agent_id}:
            raise ConfigError("a key cannot be bound to a user or an agent without a name: name one, or leave it out")
        key_id = secrets.token_hex(4)
        text, digest = _new_secret(key_id)
        key = Key(
            id=key_id,
            name=name,
            sha256=digest,
            created_at=datetime.now(UTC),
            user_id=user_id,
            agent_id=agent_id,
            may_write=may_write,
            admin=admin,
        )
        with self._held():
            self._write((*self.read(), key))
        return key, text

    def rotate(self, key_id: str) -> tuple[Key, str]:
        """Give a key a new secret; the old one works no longer. Returns the key and, this once, what its owner shows.

        Raises:
            ConfigError: there is no such key, or it is revoked.
        """
        text, digest = _new_secret(key_id)
        return self._changed(key_id, lambda key: replace(key, sha256=digest)), text

    def revoke(self, key_id: str) -> Key:
        """Make a key worthless for good, from now on also on servers that run.

        Raises:
            ConfigError: there is no such key, or it is revoked.
        """
        return self._changed(key_id, lambda key: replace(key, revoked_at=datetime.now(UTC)))

    def _changed(self, key_id: str, change: Callable[[Key], Key]) -> Key:
        with self._held():
            keys = {key.id: key for key in self.read()}
            if key_id not in keys or keys[key_id].revoked_at:
                raise ConfigError(f"{self.path} has no key {key_id!r} that is in use: see 'ollama-async-mem keys list'")
            keys[key_id] = change(keys[key_id])
            self._write(tuple(keys.values()))
            return keys[key_id]

    def _write(self, keys: tuple[Key, ...]) -> None:
        """Put a new file in the place of the old one: a server that reads meanwhile sees either.

        Where the path is a link, that is the file it leads to: other servers may read that one.
        """
        path = self.path.resolve()
        new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(msgspec.json.format(msgspec.json.encode(_Content(keys=keys)), indent=2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as exc:
            new.unlink(missing_ok=True)
            raise ConfigError(f"cannot write the keys to {self.path}: {exc.strerror}") from exc

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Let no other command change the file meanwhile: one of two changes would be lost."""
        try:
            path = self.path.resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise ConfigError(f"cannot write the keys to {self.path}: {exc.strerror}") from exc
        try:
            _lock(lock)
            yield
        finally:
            os.close(lock)


class KeyRing:
    """The keys of a file as a running server sees them: a change of the file counts within half a second.

    Keys are needed once there was one, also when the file goes away or cannot be read any more.
    """

    def __init__(self, file: KeyFile, *, is_needed: bool = False) -> None:
        self._file = file
        self.is_needed = is_needed
        self._keys: dict[str, Key] = {}
        self._version: tuple[int, ...] | None = None
        self._looked_at = -_FRESH_S

    def load(self) -> None:
        """Read the file if it is another than before; blocks.

        Raises:
            ConfigError: it cannot be read; until it can, no key is good.
        """
        version = self._version_now()
        if version == self._version:
            return
        try:
            keys = self._file.read()
        except ConfigError:
            self._keys, self.is_needed = {}, True
            raise
        self._keys = {key.id: key for key in keys}
        self._version = version
        self.is_needed = self.is_needed or bool(self._keys)

    async def refresh(self) -> None:
        """Look whether the file has changed, unless that was done a moment ago; never raises."""
        now = time.monotonic()
        if now - self._looked_at < _FRESH_S:
            return
        self._looked_at = now
        try:
            await anyio.to_thread.run_sync(self.load)
        except ConfigError as exc:
            _log.error("no key is good until this is mended: %s", exc)

    def find(self, text: str) -> Key | None:
        """Return the key that somebody shows, or None where it is wrong or revoked. Takes as long in every case."""
        key_id = text.removeprefix(PREFIX).partition("_")[0]
        key = self._keys.get(key_id)
        is_same = hmac.compare_digest(key.sha256 if key else _NO_DIGEST, _digest(text))
        return key if key and is_same and not key.revoked_at else None

    async def is_good(self, key: Key | None) -> bool:
        """Tell whether a key that was found is still as it was; of None, whether no key is needed still."""
        await self.refresh()
        return self._holds(key)

    def is_good_now(self, key: Key | None = None) -> bool:
        """Tell the same without a look at the file; False where one is due."""
        return time.monotonic() - self._looked_at < _FRESH_S and self._holds(key)

    @property
    def has_active(self) -> bool:
        """Whether any key is in use."""
        return any(not key.revoked_at for key in self._keys.values())

    @property
    def path(self) -> Path:
        """Where the keys lie."""
        return self._file.path

    def _holds(self, key: Key | None) -> bool:
        return self._keys.get(key.id) == key if key else not self.is_needed

    def _version_now(self) -> tuple[int, ...]:
        try:
            found = self._file.path.stat()
        except FileNotFoundError:
            return ()
        except OSError:
            return (-1,)  # there is something: reading it says what is wrong
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode


def default_key_file(store: str) -> Path:
    """Name the file of keys of a store: beside the store's file, or in the user's data folder where it has none."""
    path = store.partition("?")[0].removeprefix("sqlite:///") if store.startswith("sqlite:") else store
    if not path or "://" in path or path.endswith(":memory:"):
        return data_folder(os.environ) / "keys.json"
    return Path(path).expanduser().with_name(f"{Path(path).name}.keys.json")


def _new_secret(key_id: str) -> tuple[str, str]:
    """What the owner of a key shows, and its hash."""
    text = f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
    return text, _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _lock(descriptor: int) -> None:
    """Wait for a lock that ends with the descriptor; Windows refuses to replace a file that is read, which is one."""
    if sys.platform != "win32":
        import fcntl  # noqa: PLC0415 - only on POSIX

        fcntl.flock(descriptor, fcntl.LOCK_EX)
