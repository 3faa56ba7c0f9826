"""`python -m fakes`: the scripted Ollama as a process of its own, for benchmarks and command-line tests.

Prints one JSON line with its `url` and serves until its standard input ends, so it never outlives its parent.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import sys

from . import ScriptedOllama


def main() -> None:
    """Serve, after an optional function has had the server to enqueue answers or change settings."""
    parser = argparse.ArgumentParser(prog="python -m fakes", description=__doc__)
    parser.add_argument("--script", metavar="MODULE:FUNCTION", help="called with the server first")
    parser.add_argument("--argument", default="null", metavar="JSON", help="second argument of that function")
    options = parser.parse_args()
    with ScriptedOllama() as server:
        if options.script:
            pkgutil.resolve_name(options.script)(server, json.loads(options.argument))
        print(json.dumps({"url": server.url}), flush=True)  # noqa: T201  # its one line of output
        sys.stdin.read()


if __name__ == "__main__":
    main()
