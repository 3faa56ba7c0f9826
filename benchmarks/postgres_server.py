"""A PostgreSQL server for a run: prints its URL, and ends when its input does.

It is the one of the tests, with more memory, so their folder must be in PYTHONPATH. Where PG_DSN names another one,
that is printed, and at the end its schemas are dropped whose names begin with the argument.
"""

import asyncio
import json
import os
import sys
from contextlib import ExitStack

import asyncpg
from stores.servers import Server

SETTINGS = {"shared_buffers": "1GB", "work_mem": "16MB"}


async def drop_schemas(url: str, prefix: str) -> None:
    """Leave nothing behind."""
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch("SELECT nspname FROM pg_namespace WHERE starts_with(nspname, $1)", prefix)
        for (name,) in names:
            await connection.execute(f'DROP SCHEMA "{name}" CASCADE')
    finally:
        await connection.close()


with ExitStack() as stack:
    url = os.environ.get("PG_DSN") or stack.enter_context(Server(**SETTINGS)).url()
    print(json.dumps({"url": "PG_DSN" if "PG_DSN" in os.environ else url}), flush=True)
    sys.stdin.read()
    asyncio.run(drop_schemas(url, sys.argv[1]))
