"""The command line: exit status 0, or 1 where a contender is missing or failed, or 2 for an unknown name."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .report import as_report, as_text, failed
from .runner import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .records import Benchmark

PREFIX = "bench_"


def names() -> list[str]:
    """The benchmarks there are: one for each `bench_*.py`."""
    return sorted(path.stem.removeprefix(PREFIX) for path in Path(__file__).parent.glob(f"{PREFIX}*.py"))


def load(name: str) -> Benchmark:
    """The benchmark that a module declares."""
    return cast("Benchmark", import_module(f"{__package__}.{PREFIX}{name}").BENCHMARK)


def main(arguments: Sequence[str] | None = None) -> int:
    """List the benchmarks, or run one and print its report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run one benchmark, or list them.")
    parser.add_argument("name", nargs="?", help="the benchmark to run; without it they are listed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and smaller cases")
    parser.add_argument(
        "--case", action="append", default=[], metavar="TEXT", help="only contenders with this in their names"
    )
    parser.add_argument("--data", metavar="PATH", help="the data of a benchmark whose data is not here")
    options = parser.parse_args(arguments)
    if options.name is None:
        print("\n".join(f"{name:12} {load(name).about}" for name in names()))
        return 0
    if options.name not in names():
        parser.error(f"there is no benchmark {options.name!r}; there are: {', '.join(names())}")
    benchmark = load(options.name)
    contenders = [contender.name for contender in benchmark.contenders]
    for text in options.case:
        if not any(text in name for name in contenders):
            parser.error(f"no contender has {text!r} in its name; there are: {', '.join(contenders)}")
    return _run_and_print(benchmark, options)


def _run_and_print(benchmark: Benchmark, options: argparse.Namespace) -> int:
    given = {"data": str(Path(options.data).resolve())} if options.data else {}
    rows = run(benchmark, quick=options.quick, only=options.case, given=given)
    report = as_report(benchmark, rows, quick=options.quick)
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    return 1 if failed(report) else 0


if __name__ == "__main__":
    sys.exit(main())
