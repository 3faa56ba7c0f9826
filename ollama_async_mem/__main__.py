"""`python -m ollama_async_mem`, the same as the command `ollama-async-mem`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from ollama_async_mem.errors import MissingExtra


def main() -> int:
    """Run the command line; without its packages, say how to get them."""
    if not all(find_spec(name) for name in ("cyclopts", "rich", "prompt_toolkit")):
        sys.stderr.write(f"error: {MissingExtra('cli', 'the command line')}\n")
        return 2
    try:
        from ollama_async_mem.cli.main import run  # noqa: PLC0415 - needs the extra

        return run()
    except KeyboardInterrupt:  # while the modules are still being loaded
        return 130


if __name__ == "__main__":
    sys.exit(main())
