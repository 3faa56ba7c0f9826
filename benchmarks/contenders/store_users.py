"""One store with many users: each query is another user's, by its vector and then by its words."""

import asyncio

from benchmarks.footprint import report
from benchmarks.store_case import asked, numbers_of, open_data, recalled
from benchmarks.store_phases import Timed, centiles, dense, keyword, timed


async def main() -> None:
    """All queries once, which is cold, and then once more."""
    queries = asked()
    places = range(len(queries.texts))

    async def both(place: int) -> tuple[Timed, Timed]:
        return await timed(dense(store, queries, place)), await timed(keyword(store, queries, place))

    async with open_data() as store:
        cold = [await timed(both(place)) for place in places]
        warm = [await timed(both(place)) for place in places]
    report(
        **centiles([ms for ms, _ in warm]),
        recall=recalled(queries, [numbers_of(near) for _, ((_, near), _) in warm]),
        **centiles([ms for _, ((ms, _), _) in warm], "dense_"),
        **centiles([ms for _, (_, (ms, _)) in warm], "keyword_"),
        **centiles([ms for ms, _ in cold], "cold_"),
    )


asyncio.run(main())
