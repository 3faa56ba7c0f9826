"""One store with many users: each query is another user's, by its vector and then by its words."""

import asyncio

from benchmarks.footprint import report
from benchmarks.store_case import asked, open_data
from benchmarks.store_phases import centiles, dense, keyword, mean_recall, timed


async def main() -> None:
    """All users once, which is cold, and then once more."""
    queries = asked()
    places = range(len(queries.texts))

    async def both(place: int) -> None:
        near[place] = await timed(dense(store, queries, place))
        worded[place] = await timed(keyword(store, queries, place))

    near, worded = {}, {}
    async with open_data() as store:
        cold = [(await timed(both(place)))[0] for place in places]
        warm = [(await timed(both(place)))[0] for place in places]
    report(
        **centiles(warm),
        recall=mean_recall(queries, [near[place][1] for place in places]),
        **centiles([ms for ms, _ in near.values()], "dense_"),
        **centiles([ms for ms, _ in worded.values()], "keyword_"),
        **centiles(cold, "cold_"),
    )


asyncio.run(main())
