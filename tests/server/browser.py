"""What the tests of the page share: a headless Chromium, a server of the page, and a scripted model that talks."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from fakes import ScriptedOllama

from ollama_async_mem import Memory
from ollama_async_mem.server.rest import rest_app
from server.running import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Response

# Read when this is imported: the tests run without variables of this name.
BROWSER = os.environ.get("OLLAMA_ASYNC_MEM_BROWSER")
_PATH = BROWSER or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = """--no-sandbox --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync"""
_LINE = re.compile(r"^\[(\d+)\] \([^)]*\) [^:]*: (.*)$", re.MULTILINE)
WAIT_MS = 8_000


def require_browser() -> None:
    """Skip a module where there is no browser; where CI names one, that is a failure."""
    missing = "playwright" if not find_spec("playwright") else "chromium" if not _PATH else ""
    if not missing:
        return
    if os.environ.get("CI") == "true" and BROWSER:
        pytest.fail(f"{missing} is missing, and CI is to test the page")
    pytest.skip(
        f"{missing} is not installed: 'pip install playwright' and a Chromium test the page", allow_module_level=True
    )


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser, with a profile of its own."""
    require_browser()
    from playwright.async_api import async_playwright  # noqa: PLC0415 - may be missing

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_PATH, args=_FLAGS.split())
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Model:
    """A scripted chat model: `says` are answers and `facts` statements, by words of what they are about."""

    says: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    def __call__(self, body: dict[str, Any]) -> str:
        """Answer what the last message asks for: a conversation, facts, or which of two of them holds."""
        asked = body["messages"][-1]["content"]
        if "format" not in body:
            return next((answer for words, answer in self.says.items() if words in asked), f"You said: {asked}")
        if "verdicts" in body["messages"][0]["content"]:
            pairs = re.findall(r"^(\d+)\. ", asked, re.MULTILINE)
            return json.dumps({"verdicts": [{"pair": int(pair), "verdict": "replaces"} for pair in pairs]})
        return json.dumps({"facts": list(self._facts(asked))})

    def _facts(self, asked: str) -> Any:
        for number, text in _LINE.findall(asked):
            for quote, statement in self.facts.items():
                if quote in text:
                    yield {"line": int(number), "quote": quote, "text": statement}


@dataclass
class Site:
    """A server of the page with its memory and the Ollama behind it, and what browsers complained of."""

    url: str
    memory: Memory
    ollama: ScriptedOllama
    model: Model
    complaints: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    async def open(self, browser: Browser, *, at: str = "/", **options: Any) -> Page:
        """A new tab with a profile of its own, with the page in it."""
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = await context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", self._on_response)
        await page.goto(self.url + at)
        return page

    async def close(self) -> None:
        """Close all that was opened."""
        for context in self.contexts:
            await context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def _on_response(self, response: Response) -> None:
        if response.status in {404, 500} and "/memories/" not in response.url:
            self.complaints.append(f"{response.status} {response.url}")


@asynccontextmanager
async def site(folder: Path, **options: Any) -> AsyncIterator[Site]:
    """A server of the page; with `extract_here=True` the memory reads for facts."""
    model = Model()
    async with ScriptedOllama() as ollama:
        ollama.settings.answer = model
        memory = Memory(folder / "memory.db", host=ollama.url, **{"extract_here": False, **options})
        stopping = anyio.Event()
        async with memory, running(rest_app(memory, allow_config=True, stopping=stopping)) as url:
            here = Site(url, memory, ollama, model)
            yield here
            await here.close()
            stopping.set()
