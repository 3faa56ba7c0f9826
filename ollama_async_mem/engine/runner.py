"""The process that holds one loaded GGUF file: `python -m ollama_async_mem.engine.runner`.

It loads the model into llama.cpp's own HTTP server on a loopback port that only the engine has the key of,
says so in one JSON line on standard output, and serves until its standard input is closed. A process of its
own, as Ollama's runners are: loading never blocks the engine (the binding holds the interpreter lock while it
loads), a crash inside llama.cpp ends only this process, and unloading gives all memory back.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from .leash import wait_for_parent_exit

__all__ = ["CONFIG_VARIABLE"]

CONFIG_VARIABLE = "OLLAMA_ASYNC_MEM_RUNNER"  # not an argument: those are shown to every user of the machine
_ERRORS_ONLY = 1


def main() -> None:
    """Load, announce, serve until the parent is gone."""
    announce = os.dup(1)
    os.dup2(2, 1)  # whatever llama.cpp prints must not mix with the announcement
    server = _load(json.loads(os.environ.pop(CONFIG_VARIABLE)))
    os.write(announce, json.dumps({"url": server.listening_address}).encode() + b"\n")
    os.close(announce)
    wait_for_parent_exit()
    os._exit(0)  # nothing to save, and llama.cpp's threads need no farewell


def _load(config: dict[str, Any]) -> Any:
    """Load the model; the reason of a failure stands on standard error."""
    from xllamacpp import Server  # noqa: PLC0415  the extra is needed only here

    try:
        return Server(_params(config))
    except (RuntimeError, ValueError) as exc:
        sys.exit(str(exc))


def _params(config: dict[str, Any]) -> Any:
    """llama.cpp's parameters; `n_ctx` is for each of the parallel slots."""
    from xllamacpp import CommonParams  # noqa: PLC0415  the extra is needed only here

    params = CommonParams()
    params.model.path = config["path"]
    params.n_parallel = config["parallel"]
    params.n_ctx = config["n_ctx"] * config["parallel"]
    params.api_keys = [config["key"]]
    params.port = 0
    params.ui = False
    params.cors_origins = ""  # llama.cpp's "*" would answer every web page with the page's own origin
    params.cors_credentials = False
    params.warmup = False
    params.cache_ram_mib = 0
    params.verbosity = _ERRORS_ONLY
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config["threads"]
    params.n_batch = params.n_ubatch = config["batch"]
    params.embedding = config["embedding"]
    return params


if __name__ == "__main__":
    main()
