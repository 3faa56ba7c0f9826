"""Benchmarks: `python -m benchmarks` lists them, `python -m benchmarks NAME` runs one.

One `bench_NAME.py` declares a benchmark; each file in `contenders/` is the whole program of one contender, run in a
fresh process for every repeat. Figures are of this machine at this moment: compare contenders, not machines.
"""
