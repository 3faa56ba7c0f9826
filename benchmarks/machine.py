"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ollama_async_mem

from .runner import installed_version

if TYPE_CHECKING:
    from .records import Benchmark


def machine() -> dict[str, Any]:
    """Interpreter, operating system, processor and how busy it is."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "os": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> str:
    """The processor's name where Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(benchmark: Benchmark) -> dict[str, str | None]:
    """The versions of all packages that contenders name; `None` for one that is not installed."""
    packages = {package for contender in benchmark.contenders for package in contender.packages}
    found = {package: installed_version(package) for package in sorted(packages)}
    return {"ollama-async-mem": ollama_async_mem.__version__, **found}
