"""The interpreter alone."""

from benchmarks.footprint import report

report()
