"""Many chats over REST at once, each followed by the next: what fails, and how the server grows."""

import asyncio
import time

from benchmarks.footprint import report
from benchmarks.phases import CASE
from benchmarks.serve_case import Client, served

FIRST_PART = 0.3  # of the time; by then all that a server keeps is there


async def main() -> None:
    """Users of their own, whose memories grow."""
    done = errors = 0
    begin_s = time.monotonic()
    end_s = begin_s + CASE["chat_seconds"]

    async def talk(number: int, url: str) -> None:
        nonlocal done, errors
        client, turn = await Client.connect(url), 0
        while time.monotonic() < end_s:
            turn += 1
            text, kept = f"Question {turn} of {number}?", CASE.get("is_kept", True)
            body = {"messages": text, "user_id": f"user-{number}", "infer": False, "remember": kept}
            client.send("/api/v1/chat", body)
            answer = await client.answer()
            is_good = b'"event":"done"' in answer and b'"error":null' in answer
            done, errors = done + is_good, errors + (not is_good)
        client.close()

    with served(llm=f"paced:{CASE['chunks']}") as server:
        tasks = [asyncio.create_task(talk(number, server.rest)) for number in range(CASE["chats"])]
        await asyncio.sleep(CASE["chat_seconds"] * FIRST_PART)
        early_mb = server.rss_mb()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        errors += sum(isinstance(outcome, BaseException) for outcome in outcomes)
        report(done=done, errors=errors, rss_growth_ratio=server.rss_mb() / early_mb, rss_mb=server.rss_mb())


asyncio.run(main())
