"""Child processes that cannot outlive their parent.

A leashed child has the read end of a pipe as its standard input and nobody ever writes to it: when the
parent ends in any way, kill -9 included, the pipe closes and the child ends too. Run as
`python -m ollama_async_mem.engine.leash COMMAND...` this module puts any other command on the leash.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["detached", "environment", "on_parent_exit", "wait_for_parent_exit"]


def wait_for_parent_exit() -> None:
    """Block until standard input is closed."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass


def on_parent_exit(action: Callable[[], object]) -> None:
    """Call `action` from a thread when standard input is closed."""

    def watch() -> None:
        wait_for_parent_exit()
        action()

    threading.Thread(target=watch, name="leash", daemon=True).start()


def detached() -> dict[str, Any]:
    """Arguments that start a child outside of the terminal's group: Ctrl-C reaches only the parent."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def environment(**more: str) -> dict[str, str]:
    """This environment for a child that must find this package too, wherever it was imported from."""
    here = str(Path(__file__).parents[2])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def main(command: Sequence[str]) -> int:
    """Run a command, end it when the parent is gone, return its exit status."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as child:  # noqa: S603  the caller's own command
        on_parent_exit(child.kill)
        return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
