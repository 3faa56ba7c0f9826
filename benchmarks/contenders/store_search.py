"""One store, opened by a process that has never seen it: search among all rows of one user."""

import asyncio

from benchmarks.footprint import report
from benchmarks.store_case import asked, open_data
from benchmarks.store_phases import centiles, dense, keyword, mean_recall, timed


async def main() -> None:
    """The first query, then each by its vector, then each by its words."""
    queries = asked()
    async with open_data() as store:
        first_ms, _ = await timed(dense(store, queries, 0))
        near = [await timed(dense(store, queries, place)) for place in range(len(queries.texts))]
        worded = [await timed(keyword(store, queries, place)) for place in range(len(queries.texts))]
    report(
        first_query_ms=first_ms,
        **centiles([ms for ms, _ in near]),
        recall=mean_recall(queries, [found for _, found in near]),
        **centiles([ms for ms, _ in worded], "keyword_"),
    )


asyncio.run(main())
