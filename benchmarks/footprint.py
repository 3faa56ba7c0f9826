"""What a contender's process says of itself at its end.

Imports almost nothing, since what it imports is measured with the contender.
"""

from __future__ import annotations

import sys


def report(**figures: float) -> None:
    """Print the line of figures that the runner reads."""
    modules = sum(not name.startswith("benchmarks") for name in sys.modules)
    every = {**figures, "modules": modules, "peak_rss_mb": peak_rss_mb()}
    print("{" + ", ".join(f'"{name}": {value}' for name, value in every.items()) + "}")


def peak_rss_mb() -> float:
    """The largest resident set of this program in MiB.

    From Linux's own record where there is one: `ru_maxrss` would include the parent as it was before `exec`.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123  # no import
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return _maxrss_mb()


def _maxrss_mb() -> float:
    import resource  # noqa: PLC0415  # only where it is needed, for the reason above

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
