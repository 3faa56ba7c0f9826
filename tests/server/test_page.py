"""The page in a real browser, against a real server with a memory on a scripted Ollama."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import pytest_asyncio
from fakes import STALL, Hold, Raw, line_chunk, stream_head

from ollama_async_mem.server.access import Principal
from ollama_async_mem.server.keys import KeyFile
from ollama_async_mem.server.rest import rest_app
from ollama_async_mem.server.serve import Parts, serving
from ollama_async_mem.server.settings import ServerSettings
from server.browser import WAIT_MS, Site, chromium, require_browser, site
from server.running import held, running, seen_by
from server.small import off_loop

require_browser()
from playwright.async_api import expect  # noqa: E402 - it may be missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Browser, Page

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.asyncio(loop_scope="module")
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
SCRIPT = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script> **bold**'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests; each page has a profile of its own."""
    async with held(chromium()) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def here(tmp_path: Path) -> AsyncIterator[Site]:
    """A server of the page. Whatever a test does there, the browser has nothing to complain of."""
    async with held(site(tmp_path)) as opened:
        yield opened
    assert opened.complaints == [], "no errors of scripts, none of the content security policy, and no file is missing"


def token(text: str) -> dict[str, Any]:
    """A line of Ollama's answer."""
    return {"model": "llama3.2", "message": {"role": "assistant", "content": text}, "done": False}


def halting(*words: str, then: Any) -> Raw:
    """An answer that says some words and then stops for something."""
    return Raw([stream_head(), *(line_chunk(token(word)) for word in words), then])


async def say(page: Page, text: str) -> None:
    """Say something in the chat."""
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")


async def answered(page: Page, text: str) -> None:
    """Wait until the last answer is there."""
    await expect(page.locator(".message.other").last.locator(".body")).to_have_text(text)
    await expect(page.get_by_role("button", name="Send")).to_be_visible()


async def show(page: Page, tab: str) -> None:
    """Choose a tab."""
    await page.get_by_role("tab", name=tab).click()


async def test_an_answer_streams_and_says_what_it_recalled(here: Site, browser: Browser) -> None:
    """Its beginning is on the page before it has an end; what was recalled has a score, a date and a reason."""
    await here.memory.add("I like green tea", user_id="alice", infer=False, timestamp="2026-01-01")
    rest = Hold()
    end = {**token(""), "done": True, "done_reason": "stop"}
    script: list[Any] = [
        stream_head(),
        line_chunk(token("Green ")),
        rest,
        line_chunk(token("**tea**")),
        line_chunk(end),
    ]
    here.ollama.enqueue("POST /api/chat", Raw([*script, b"0\r\n\r\n"]))
    page = await here.open(browser)
    await expect(page.locator("#scope-name")).to_have_text("alice")
    await say(page, "Which green tea do I like?")
    await expect(page.locator(".message.other .body")).to_have_text("Green")
    await expect(page.locator(".message.other .body")).to_have_attribute("aria-busy", "true")
    recalled = page.locator("#recalled .card")
    await expect(recalled.locator(".text")).to_have_text("I like green tea")
    assert int(await recalled.locator(".score").inner_text()) > 0
    await expect(recalled.locator(".why summary")).to_contain_text("same words")
    rest.release()
    await answered(page, "Green tea")
    await expect(page.locator(".message.other strong")).to_have_text("tea")
    await expect(page.locator(".message.other .body")).to_have_attribute("aria-busy", "false")
    assert (await here.memory.count(user_id="alice")).turns == 3


async def test_stop_ends_the_answer(here: Site, browser: Browser) -> None:
    """The model's work ends, nothing is remembered, and the next question is answered."""
    here.ollama.enqueue("POST /api/chat", halting("Well ", then=STALL))
    page = await here.open(browser)
    await say(page, "Tell me everything")
    await expect(page.locator(".message.other .body")).to_have_text("Well")
    busy = here.ollama.open_connections
    await page.keyboard.press("Escape")
    await expect(page.locator(".message.other .notes")).to_contain_text("Stopped")
    await here.ollama.wait_until(lambda: here.ollama.open_connections < busy)
    assert (await here.memory.count()).turns == 0
    await say(page, "Hello")
    await answered(page, "You said: Hello")
    assert [m["content"] for m in here.ollama.requests_to("POST /api/chat")[-1].json["messages"][-3:]] == [
        "Tell me everything",
        "Well ",
        "Hello",
    ]
    here.ollama.enqueue("POST /api/chat", halting("Well ", then=STALL))
    await say(page, "Again")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator(".message.other .notes").last).to_contain_text("Stopped")


async def test_after_a_reload_the_conversation_is_there(here: Site, browser: Browser) -> None:
    """It is what the memory holds; earlier parts of a long one come on request."""
    at = datetime.now(UTC) - timedelta(days=3)
    said = [{"role": "user", "content": f"line {n}", "timestamp": at + timedelta(minutes=n)} for n in range(40)]
    await here.memory.add(said, user_id="bob", infer=False)
    page = await here.open(browser)
    await say(page, "Hello")
    await answered(page, "You said: Hello")
    await page.reload()
    await expect(page.locator(".message")).to_have_count(30)
    await answered(page, "You said: Hello")
    await expect(page.locator(".day")).to_have_text([f"{at:%-d %b %Y}".replace("Sep ", "Sept "), "Today"])
    await page.get_by_role("button", name="Show earlier messages").click()
    await expect(page.locator(".message")).to_have_count(42)
    await expect(page.locator(".message").first).to_contain_text("line 0")


async def test_facts_arrive_and_old_ones_are_struck_through(tmp_path: Path, browser: Browser) -> None:
    """Without a reload; the old one says what holds now, and has its history."""
    async with site(tmp_path, extract_here=True) as here:
        here.model.facts = {"I live in Berlin": "User lives in Berlin.", "I live in Lisbon": "User lives in Lisbon."}
        page = await here.open(browser)
        learned = page.locator("#learned .card")
        await say(page, "I live in Berlin")
        await expect(learned.locator(".text")).to_have_text(["User lives in Berlin."])
        await say(page, "I moved, I live in Lisbon now")
        await expect(learned.locator(".text")).to_have_text(["User lives in Lisbon.", "User lives in Berlin."])
        old = learned.nth(1)
        await expect(old.locator("del")).to_have_text("User lives in Berlin.")
        await expect(old.locator(".until")).to_contain_text("User lives in Lisbon.")
        await old.get_by_role("button", name="History").click()
        await expect(old.locator(".history")).to_contain_text("No longer holds. Now: User lives in Lisbon.")
        assert here.complaints == []


async def test_search_with_filters(here: Site, browser: Browser) -> None:
    """By words, by who said it and by when; what does not fit is not shown."""
    old = datetime.now(UTC) - timedelta(days=30)
    await here.memory.add({"role": "user", "content": "green tea at home", "timestamp": old}, user_id="a", infer=False)
    await here.memory.add({"role": "assistant", "content": "green tea is fine"}, user_id="a", infer=False)
    await here.memory.add("a train to Porto", user_id="a", infer=False)
    page = await here.open(browser)
    await show(page, "Memories")
    found = page.locator("#found .card .text")
    await expect(found).to_have_count(3)
    await page.get_by_label("Search the memory").fill("green tea")
    await expect(page.locator("#found-note")).to_contain_text("best first")
    assert "green tea" in await found.first.inner_text()
    await page.locator("#filters summary").click()
    await page.get_by_label("Said by").fill("assist")
    await expect(found).to_have_text(["green tea is fine"])
    await page.get_by_label("Said by").fill("")
    await page.get_by_label("To", exact=True).fill(f"{old:%Y-%m-%d}")
    await expect(found).to_have_text(["green tea at home"])
    await page.get_by_label("To", exact=True).fill("")
    await expect(found).to_have_count(3)
    await page.get_by_label("As known on").fill(f"{old:%Y-%m-%d}")
    await expect(found).to_have_text(["green tea at home"])
    await page.get_by_label("Contains").fill("nowhere")
    await expect(page.locator("#found")).to_contain_text("Nothing fits")
    await page.get_by_role("button", name="Clear filters").click()
    await expect(found).to_have_count(3)


async def test_delete_and_undo(here: Site, browser: Browser) -> None:
    """What is undone was never asked for; else it is destroyed after a while, and also when the page is left."""
    for text in ("one", "two", "three"):
        await here.memory.add(text, user_id="a", infer=False)
    page = await here.open(browser)
    await page.clock.install()
    await show(page, "Memories")
    delete = page.locator("#found").get_by_role("button", name="Delete")
    await expect(page.locator("#found .card .text")).to_have_text(["three", "two", "one"])
    await delete.first.click()
    await expect(page.locator("#found .card:visible")).to_have_count(2)
    await expect(page.locator("#log")).not_to_contain_text("three", use_inner_text=True)
    await page.get_by_role("button", name="Undo").click()
    await expect(page.locator("#found .card:visible")).to_have_count(3)
    await page.clock.fast_forward(10_000)
    assert (await here.memory.count()).turns == 3
    async with page.expect_response(lambda response: response.request.method == "DELETE"):
        await delete.first.click()
        await page.clock.fast_forward(10_000)
    assert [turn.text for turn in (await here.memory.list(user_id="a")).items] == ["two", "one"]
    await expect(page.locator("#found .card .text")).to_have_text(["two", "one"])
    await delete.first.click()
    await page.goto("about:blank")
    with anyio.fail_after(5):
        while (await here.memory.count()).turns != 1:  # noqa: ASYNC110 - it was sent by a page that is gone
            await anyio.sleep(0.01)


async def test_edit(here: Site, browser: Browser) -> None:
    """Everywhere it is shown; the old text is in its history, and Escape changes nothing."""
    await here.memory.add("I like geen tea", user_id="a", infer=False)
    page = await here.open(browser)
    await show(page, "Memories")
    card = page.locator("#found .card")
    await card.get_by_role("button", name="Edit").click()
    await page.keyboard.press("Escape")
    await expect(card.get_by_role("button", name="Edit")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Control+a")
    await page.keyboard.type("I like green tea")
    await page.keyboard.press("Control+Enter")
    await expect(card.locator(".text")).to_have_text("I like green tea")
    await expect(page.locator("#log .body")).to_have_text("I like green tea")
    await card.get_by_role("button", name="History").click()
    await expect(card.locator(".history del")).to_have_text("I like geen tea")


async def test_a_script_in_a_memory_stays_text(here: Site, browser: Browser) -> None:
    """In the chat, in answers, in lists, in names and in problems."""
    await here.memory.add({"role": "user", "name": SCRIPT, "content": SCRIPT}, user_id=SCRIPT, infer=False)
    here.model.says = {"script": SCRIPT}
    page = await here.open(browser)
    await expect(page.locator("#scope-name")).to_have_text(SCRIPT)
    await expect(page.locator("#log .own .body")).to_have_text(SCRIPT)
    await say(page, "show a script")
    await expect(page.locator("#log .other strong")).to_have_text("bold")
    await show(page, "Memories")
    await expect(page.locator("#found .card .text").last).to_have_text(SCRIPT)
    await page.locator("#scope").click()
    await expect(page.locator("#scope-list b")).to_have_text(SCRIPT)
    assert await page.locator("img").count() == 1, "the icon of the page"
    assert await page.evaluate("window.hacked") is None


async def test_ollama_down_and_back(here: Site, browser: Browser) -> None:
    """The page says so, and goes on by itself; what was asked is asked again by one button."""
    page = await here.open(browser)
    await expect(page.locator("#status")).to_have_attribute("data-state", "up")
    await here.ollama.stop()
    await say(page, "Hello")
    await expect(page.locator("#banner")).to_contain_text("ollama serve")
    await expect(page.locator(".message.other .notes")).to_contain_text("cannot be reached")
    await here.ollama.start()
    await expect(page.locator("#banner")).to_be_empty()
    await expect(page.locator("#status")).to_have_attribute("data-state", "up")
    await page.get_by_role("button", name="Try again").click()
    await answered(page, "You said: Hello")
    await expect(page.locator(".message.own")).to_have_count(1)


async def test_an_empty_store_says_what_to_do(here: Site, browser: Browser) -> None:
    """In each view; a suggestion becomes a message."""
    page = await here.open(browser)
    await expect(page.locator("#welcome")).to_contain_text("A chat that remembers")
    for tab, words in (("Memories", "Nothing is remembered yet"), ("Timeline", "Nothing is remembered yet")):
        await show(page, tab)
        await expect(page.get_by_role("tabpanel")).to_contain_text(words)
    await page.get_by_role("button", name="peanuts").click()
    await page.keyboard.press("Enter")
    await answered(page, "You said: I'm allergic to peanuts, and I like green tea.")
    await expect(page.locator("#welcome")).to_be_hidden()


async def test_a_phone_has_no_horizontal_scroll(here: Site, browser: Browser) -> None:
    """In none of the views, with long words and code too."""
    here.model.says = {"code": f"```\n{'x' * 300}\n```\n\n{'y' * 300}"}
    await here.memory.add("word" * 100, user_id="user" * 20, infer=False)
    page = await here.open(browser, **PHONE)
    await say(page, "code")
    await expect(page.locator("pre")).to_be_visible()
    for tab in ("Chat", "Recall", "Memories", "Timeline", "Models"):
        await show(page, tab)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360, tab
        clipped = (
            "e => [...e.querySelectorAll('button, input')].filter(b => b.getBoundingClientRect().right > 361).length"
        )
        assert await page.locator("body").evaluate(clipped) == 0, tab
    await page.locator("#scope").click()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_a_walk_by_keyboard(here: Site, browser: Browser) -> None:
    """Without a pointer: search, tabs, timeline, dialogs and the chat; the focus is always seen."""
    await here.memory.add("green tea", user_id="a", infer=False)
    page = await here.open(browser)
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()
    await page.keyboard.press("Escape")
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("Search the memories")
    await page.keyboard.press("Escape")
    await page.keyboard.press("/")
    await expect(page.get_by_label("Search the memory")).to_be_focused()
    await page.keyboard.type("tea?")
    await expect(page.locator("#found .score")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.get_by_role("tab", name="Memories").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_role("tab", name="Timeline")).to_be_focused()
    bar = page.locator("#picture [role=button]")
    await expect(bar).to_have_attribute("aria-label", f"{datetime.now().astimezone():%-d %B %Y}: 1 message, 0 facts")
    await expect(page.locator("#table tbody tr")).to_have_text(f"{datetime.now().astimezone():%-d %B %Y}10")
    while not await bar.evaluate("bar => bar === document.activeElement"):
        await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("From")).to_have_value(f"{datetime.now().astimezone():%Y-%m-%d}")
    await expect(page.locator("#found .card")).to_have_count(1)
    await page.keyboard.press("s")
    await expect(page.get_by_label("User")).to_be_focused()
    await page.keyboard.press("Control+a")
    await page.keyboard.type("carol")
    await page.keyboard.press("Enter")
    await expect(page.locator("#scope-name")).to_have_text("carol")
    await page.keyboard.press("i")
    await page.keyboard.type("Hello")
    await page.keyboard.press("Enter")
    await answered(page, "You said: Hello")
    assert (await here.memory.count(user_id="carol")).turns == 2


async def test_models_are_pulled(here: Site, browser: Browser) -> None:
    """With progress; then they are in the list, and one of them answers in the chat."""
    rest = Hold()
    layer = {"status": "pulling a", "digest": "sha256:a", "total": 2_000_000_000, "completed": 500_000_000}
    done = line_chunk({"status": "success"})
    here.ollama.enqueue("POST /api/pull", Raw([stream_head(), line_chunk(layer), rest, done, b"0\r\n\r\n"]))
    page = await here.open(browser)
    await show(page, "Models")
    await expect(page.locator("#model-list .card")).to_have_count(2)
    await page.get_by_label("Pull a model").fill("qwen3:4b")
    await page.keyboard.press("Enter")
    await expect(page.locator("#pulls")).to_contain_text("500 MB of 2.0 GB")
    await expect(page.get_by_role("progressbar")).to_have_attribute("value", "500000000")
    here.ollama.settings.models.append("qwen3:4b")
    rest.release()
    await expect(page.locator("#pulls")).to_contain_text("qwen3:4b is here.")
    await page.locator("#model-list .card", has_text="qwen3").get_by_role("button", name="Answer with this").click()
    await expect(page.locator("#status-text")).to_have_text("qwen3:4b")


async def test_many_memories_come_by_pages(here: Site, browser: Browser) -> None:
    """However many there are, the document holds one page of them."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    many = [{"role": "user", "content": f"note {n}", "timestamp": at + timedelta(hours=n)} for n in range(120)]
    await here.memory.add(many, user_id="a", infer=False)
    page = await here.open(browser)
    await show(page, "Memories")
    found = page.locator("#found .card .text")
    await expect(found.first).to_have_text("note 119")
    await expect(found).to_have_count(50)
    await page.get_by_role("button", name="Older").click()
    await expect(found.first).to_have_text("note 69")
    await page.get_by_role("button", name="Older").click()
    await expect(found).to_have_count(20)
    await expect(page.get_by_role("button", name="Older")).to_be_disabled()
    await page.get_by_role("button", name="Newer").click()
    await expect(found.first).to_have_text("note 69")


async def test_the_scope_is_switched(here: Site, browser: Browser) -> None:
    """What is shown is of that scope alone, and it is the one of the next visit."""
    await here.memory.add("hers", user_id="alice", infer=False, timestamp="2026-01-01")
    await here.memory.add("his, elsewhere", user_id="bob", run_id="r1", infer=False, timestamp="2026-01-02")
    await here.memory.add("his", user_id="bob", infer=False, timestamp="2026-01-03")
    page = await here.open(browser)
    await expect(page.locator("#log .body")).to_have_text(["his, elsewhere", "his"])
    await page.locator("#scope").click()
    await expect(page.locator("#scope-list b")).to_have_text(["alice", "bob", "bob in r1"])
    await page.get_by_role("button", name="alice").click()
    await expect(page.locator("#log .body")).to_have_text("hers")
    await page.reload()
    await expect(page.locator("#log .body")).to_have_text("hers")


async def test_behind_a_base_path(here: Site, browser: Browser) -> None:
    """All addresses are relative to the page."""
    app = rest_app(here.memory, base_path="/deep/memory")

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        scope["path"] = scope["path"].removeprefix("/deep/memory")
        scope["raw_path"] = scope["path"].encode()
        await app(scope, receive, send)

    async with running(behind) as url:
        here.url = url
        page = await here.open(browser, at="/deep/memory/")
        await say(page, "Hello")
        await answered(page, "You said: Hello")
        await page.close()


async def test_what_a_key_may_not_do_is_not_offered(here: Site, browser: Browser) -> None:
    """A key that is bound to alice and may only read sees hers alone, and the chat leaves nothing behind."""
    reader = Principal(name="reader", user_id="alice", may_write=False)
    await here.memory.add("hers", user_id="alice", infer=False)
    await here.memory.add("his", user_id="bob", infer=False)
    async with running(seen_by(rest_app(here.memory), reader)) as url:
        here.url = url
        page = await here.open(browser)
        await expect(page.locator("#log .body")).to_have_text("hers")
        await show(page, "Memories")
        await expect(page.locator("#found .card")).to_have_count(1)
        await expect(page.get_by_role("button", name="History")).to_be_visible()
        for name in ("Edit", "Delete", "Pull"):
            await expect(page.get_by_role("button", name=name)).to_have_count(0)
        await expect(page.get_by_label("Remember this chat")).to_be_disabled()
        await say(page, "Hello")
        await answered(page, "You said: Hello")
        await page.locator("#scope").click()
        await expect(page.get_by_label("User")).to_be_disabled()
        await page.close()
    assert (await here.memory.count()).turns == 2


async def refused(url: str, key: str) -> None:
    """Wait until a key is good no more: the server looks for changes of the file now and then."""
    async with httpx.AsyncClient(headers={"x-api-key": key}) as http:
        with anyio.fail_after(10):
            while (await http.get(f"{url}/api/v1/counts")).status_code != 401:  # noqa: ASYNC110 - as it says
                await anyio.sleep(0.05)


async def test_a_key_is_asked_for(here: Site, browser: Browser, tmp_path: Path) -> None:
    """When the one that the page came with is revoked; the new one stays in this tab."""
    keys = KeyFile(tmp_path / "keys.json")
    old, old_text = await off_loop(keys.create, "old")
    _, new_text = await off_loop(keys.create, "new")
    settings = ServerSettings(port=0, mcp=False, proxy=False, trusted_proxy=("127.0.0.1",))
    async with serving(lambda stopping: Parts(rest=rest_app(here.memory, stopping=stopping)), settings, keys) as server:
        here.url = server.urls["rest"]
        page = await here.open(browser, http_credentials={"username": "any", "password": old_text})
        await say(page, "Hello")
        await answered(page, "You said: Hello")
        await off_loop(keys.revoke, old.id)
        await refused(server.urls["rest"], old_text)
        await show(page, "Memories")
        await page.get_by_label("Key", exact=True).fill("wrong")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_role("alert")).to_contain_text("wrong or was revoked")
        await page.get_by_label("Key", exact=True).fill(new_text)
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator("#found .card")).to_have_count(2)
        assert (
            await page.evaluate("JSON.stringify(localStorage)")
            == '{"ollama-async-mem scope":"{\\"user_id\\":\\"me\\"}"}'
        )
        await page.close()
