"""One store, opened by a process that has never seen it: search among all rows of one user."""

import asyncio
import time

from benchmarks.footprint import report
from benchmarks.store_case import asked, numbers_of, open_data, recalled
from benchmarks.store_phases import centiles, dense, keyword, timed


async def main() -> None:
    """The first query, then each by its vector, then each by its words.

    The processor's time is that of this process, so of PostgreSQL it has the client's part only.
    """
    queries = asked()
    async with open_data() as store:
        first_ms, _ = await timed(dense(store, queries, 0))
        cpu_s = time.process_time()
        near = [await timed(dense(store, queries, place)) for place in range(len(queries.texts))]
        cpu_s = time.process_time() - cpu_s
        worded = [await timed(keyword(store, queries, place)) for place in range(len(queries.texts))]
    report(
        first_query_ms=first_ms,
        **centiles([ms for ms, _ in near]),
        query_cpu_ms=cpu_s / len(near) * 1e3,
        recall=recalled(queries, [numbers_of(found) for _, found in near]),
        **centiles([ms for ms, _ in worded], "keyword_"),
    )


asyncio.run(main())
