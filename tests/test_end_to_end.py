"""Everything together and nothing faked: the real engine with its real model, real sockets, real files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import msgspec
import numpy as np
import psutil
import pytest

from ollama_async_mem import Memory, OllamaClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LLM, EMBEDDER = "smollm2:135m", "wordllama"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0}


class Person(msgspec.Struct):
    """A person."""

    name: str
    age: int


async def test_a_real_model_streams_the_right_answer(engine: str) -> None:
    """At temperature 0 the tokens join to a text with Paris, and the metrics are real."""
    async with OllamaClient(engine) as client, client.stream_chat(LLM, FRANCE, options=GREEDY) as stream:
        pieces = [piece async for piece in stream.text()]
    response = stream.response
    assert "Paris" in "".join(pieces)
    assert len(pieces) > 3
    assert response.eval_count >= len(pieces)
    assert 1 < response.tokens_per_second < 10_000


async def test_a_real_model_fills_a_struct(engine: str) -> None:
    """`format=` a Struct constrains the model and gives an instance."""
    messages = [{"role": "user", "content": "Tom is 5 years old. Who is he?"}]
    async with OllamaClient(engine) as client:
        reply = await client.chat(LLM, messages, format=Person, options=GREEDY)
    assert isinstance(reply.parsed, Person)
    assert reply.parsed.name


async def test_real_embeddings_rank(engine: str) -> None:
    """A matching sentence is nearer than an unrelated one."""
    async with OllamaClient(engine) as client:
        texts = ["my dog is ill", "the puppy was sick yesterday", "stocks fell after the announcement"]
        dog, puppy, stocks = (np.asarray(v) for v in (await client.embed(EMBEDDER, texts)).embeddings)
    assert dog @ puppy > dog @ stocks + 0.2
    assert np.linalg.norm(dog) == pytest.approx(1, abs=1e-5)


async def test_leaving_a_stream_frees_the_engine(engine: str) -> None:
    """After a stream is left, the model is free for the next: long answers do not pile up."""
    endless = [{"role": "user", "content": "Count from 1 to 10000."}]
    async with OllamaClient(engine) as client:
        for _ in range(6):  # more than the engine has slots
            async with client.stream_chat(LLM, endless, options={"num_predict": 2000}) as stream:
                await anext(stream)
        began = time.monotonic()
        reply = await client.chat(LLM, FRANCE, options={**GREEDY, "num_predict": 8})
        assert reply.done
        assert time.monotonic() - began < 10


async def test_a_memory_on_the_engine(engine: str, tmp_path: Path) -> None:
    """Add, find by meaning, chat with what is known, and extract: whatever a small model says, nothing unsaid stays."""
    async with Memory(tmp_path / "m.db", llm=LLM, embedder=EMBEDDER, host=engine) as mem:
        await mem.add({"name": "Ann", "content": "I am allergic to peanuts."}, user_id="ann")
        await mem.add({"name": "Ann", "content": "My bicycle is green."}, user_id="ann", infer=False)
        found = await mem.search("nut allergy", user_id="ann", limit=1)
        assert "peanuts" in found.hits[0].text
        async with mem.chat("What color is my bicycle?", user_id="ann", infer=False) as stream:
            answer = "".join([piece async for piece in stream.text()])
        assert answer.strip()
        assert "bicycle is green" in stream.memories
        assert await mem.flush() == 0
        for fact in (await mem.list(user_id="ann", kinds=["fact"])).items:
            assert "peanut" in fact.text.lower()


def demo(*arguments: str, data: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the demo as a person does, with no Ollama around."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "ollama_async_mem", "demo", *arguments],
        env=environment(data),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=data,
    )


def environment(data: Path) -> dict[str, str]:
    """A person's environment, with a data folder of its own and nothing on Ollama's port."""
    return {
        **os.environ,
        "XDG_DATA_HOME": str(data),
        "HOME": os.environ.get("HOME", "/"),
        "OLLAMA_HOST": "127.0.0.1:9",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def no_orphans(tmp_path: Path) -> Iterator[None]:
    """Fail when an engine that this test started is still there two seconds after it."""
    yield
    deadline = time.monotonic() + 2
    while (left := engines_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def engines_of(data: Path) -> list[psutil.Process]:
    """The engine processes that have this data folder in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("XDG_DATA_HOME") == str(data) and "engine" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.usefixtures("engine", "no_orphans")
def test_the_demo_runs(tmp_path: Path) -> None:
    """One command shows the whole of it: what was stored, three searches, an answer, and what to type next."""
    done = demo(data=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no Ollama at http://127.0.0.1:9: starting the embedded engine" in done.stderr
    assert "Stored 48 turns of 5 conversations" in done.stdout
    assert "2026-03-07  Tomás: Respect." in done.stdout
    assert done.stdout.count("\n? ") == 4
    assert f"The database is {tmp_path}" in done.stdout
    assert "ollama-async-mem search" in done.stdout
    answer = done.stdout.split("the name of the dog?\n")[1].splitlines()[0]
    assert "Canela" in answer


def children_cpu_s() -> float:
    """Seconds of processor time of all processes that this one has waited for."""
    used = os.times()
    return used.children_user + used.children_system


@pytest.mark.usefixtures("engine", "no_orphans")
def test_the_demo_runs_again_within_ten_seconds(tmp_path: Path) -> None:
    """The model is there, no network is needed; the demo's own file is made anew."""
    for _ in range(2):
        began = children_cpu_s()
        done = demo(data=tmp_path)
        assert done.returncode == 0, done.stderr
    assert children_cpu_s() - began < 10  # of the processor: others may be using the machine too
    with sqlite3.connect(tmp_path / "ollama-async-mem" / "demo-wordllama.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_the_demo_keeps_its_hands_off_other_files(tmp_path: Path) -> None:
    """A file that exists is not taken for the demo's."""
    mine = tmp_path / "mine.db"
    mine.write_text("precious")
    done = demo("--store", str(mine), data=tmp_path)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert mine.read_text() == "precious"


@pytest.mark.usefixtures("engine", "no_orphans")
@pytest.mark.parametrize("after", ["starting the embedded engine", "Stored 48", "exhibition open", "name of the dog"])
def test_ctrl_c_leaves_an_intact_database_and_no_process(tmp_path: Path, after: str) -> None:
    """Wherever the demo is interrupted, it ends with 130 and without a traceback, and the engine with it."""
    command = [sys.executable, "-m", "ollama_async_mem", "demo"]
    with subprocess.Popen(  # noqa: S603
        command,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        seen = ""
        while after not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        os.killpg(process.pid, signal.SIGINT)
        seen += process.stdout.read()
        assert process.wait(10) == 130, seen
    assert "Traceback" not in seen
    store = tmp_path / "ollama-async-mem" / "demo-wordllama.db"
    if store.exists():
        db = sqlite3.connect(store)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()


@pytest.mark.usefixtures("engine")
async def test_a_killed_parent_takes_its_engine_with_it(tmp_path: Path) -> None:
    """After kill -9 of a program with an engine, the engine is gone too."""
    code = (
        "import anyio\n"
        "from ollama_async_mem.engine.process import running_engine\n"
        "async def main():\n"
        "    async with running_engine() as engine:\n"
        "        print(engine.url, flush=True)\n"
        "        await anyio.sleep(60)\n"
        "anyio.run(main)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert process.stdout
    url = (await process.stdout.readline()).decode().strip()
    async with httpx.AsyncClient() as client:
        assert await answers(client, url)
        process.kill()
        await process.wait()
        async with asyncio.timeout(5):
            while await answers(client, url):
                pass


async def answers(client: httpx.AsyncClient, url: str) -> bool:
    """Tell whether anybody answers."""
    try:
        return (await client.get(url)).is_success
    except httpx.TransportError:
        return False
