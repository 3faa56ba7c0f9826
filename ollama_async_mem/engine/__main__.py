"""`python -m ollama_async_mem.engine`: serve Ollama's API on llama.cpp."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ollama_async_mem.errors import OllamaAsyncMemError

from .serve import DEFAULT_HOST, DEFAULT_PORT, serve

_USAGE_ERROR = 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ollama_async_mem.engine", description=__doc__)
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port, 0 for a free one (%(default)s)")
    parser.add_argument("--gguf", type=Path, action="append", default=[], help="serve this file; may be repeated")
    parser.add_argument("--models-dir", type=Path, help="where pulled models are kept")
    parser.add_argument("--threads", type=int, help="threads that compute (all cores but one)")
    parser.add_argument("--allow-remote", action="store_true", help="listen also where other machines reach it")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when standard input is closed")
    return parser.parse_args()


def main() -> int:
    """Serve; 2 and one line on standard error when that cannot be."""
    arguments = vars(_arguments())
    try:
        serve(arguments.pop("host"), arguments.pop("port"), **arguments)
    except OllamaAsyncMemError as exc:
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201  the one line that says why
        return _USAGE_ERROR
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
