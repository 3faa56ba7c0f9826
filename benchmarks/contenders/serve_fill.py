"""The store that the server is given, made once for all."""

import asyncio
import time

from benchmarks.footprint import report
from benchmarks.serve_case import fill

begin = time.perf_counter()
asyncio.run(fill())
report(fill_s=time.perf_counter() - begin)
