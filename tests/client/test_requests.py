"""What `chat` and `generate` send."""

from __future__ import annotations

import base64
import logging
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from fakes import Reply, error

from ollama_async_mem import OllamaClient, RetryPolicy
from ollama_async_mem.errors import ConfigError, ModelNotFound, ServerBusy, StatusError

if TYPE_CHECKING:
    from pathlib import Path

    from fakes import ScriptedOllama

PNG = b"\x89PNG not really"
HI = [{"role": "user", "content": "hi"}]


async def test_every_field_is_sent_as_the_server_takes_it(server: ScriptedOllama) -> None:
    """What is given reaches the wire under its name, what is not given is left to the server."""

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    async with OllamaClient(server.url) as client:
        await client.generate("m", "p", suffix="s", system="y", template="t", raw=True, keep_alive=-1, context=[1, 2])
        await client.show("m", verbose=True)
        async with client.stream_chat("m", HI, tools=[add], logprobs=True, top_logprobs=3, shift=True) as stream:
            assert [c async for c in stream]
    generate, show, chat = (request.json for request in server.requests)
    assert show == {"model": "m", "verbose": True}
    assert generate == {
        "model": "m", "prompt": "p", "suffix": "s", "system": "y", "template": "t", "raw": True,
        "keep_alive": -1, "context": [1, 2], "stream": False,
    }  # fmt: skip
    assert set(chat) == {"model", "messages", "stream", "tools", "logprobs", "top_logprobs", "shift"}
    assert chat["tools"][0]["function"]["name"] == "add"


async def test_images_come_from_paths_bytes_and_base64(server: ScriptedOllama, tmp_path: Path) -> None:
    """All become base64, in messages and in prompts; the caller's message is left as it was."""
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    encoded = base64.b64encode(PNG).decode()
    message = {"role": "user", "content": "what is it?", "images": [path, str(path), PNG, encoded]}
    async with OllamaClient(server.url) as client:
        await client.chat("m", [message])
        await client.generate("m", "p", images=[path])
    assert server.requests[0].json["messages"][0]["images"] == [encoded] * 4
    assert server.requests[1].json["images"] == [encoded]
    assert message["images"][0] == path


async def test_a_completion_streams(server: ScriptedOllama) -> None:
    """Chunks join to the response, as for a chat."""
    async with OllamaClient(server.url) as client, client.stream_generate("m", "one two") as stream:
        pieces = [piece async for piece in stream.text()]
    assert "".join(pieces) == stream.response.response == "You said: one two"
    assert stream.response.eval_count > 0


async def test_models_are_copied_deleted_and_listed_as_loaded(server: ScriptedOllama) -> None:
    """The small endpoints that answer with nothing."""
    async with OllamaClient(server.url) as client:
        await client.copy("llama3.2", "mine")
        assert "mine:latest" in [m.name for m in await client.tags()]
        await client.delete("mine")
        assert "mine:latest" not in [m.name for m in await client.tags()]
        assert await client.ps() == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temperature": 0}, "unknown argument 'temperature'.*options="),
        ({"top_logprobs": 21}, "from 0 to 20"),
        ({"options": 3}, "options is a mapping"),
        ({"format": 3}, "format="),
        ({"tools": [3]}, "a tool is a function"),
        ({"tools": 5}, "tools is a list"),
        ({"tools": len}, "tools is a list"),
        ({"tools": {"type": "function"}}, "tools is a list"),
        ({"top_logprobs": True}, "from 0 to 20"),
        ({"think": 3}, "think is True, False or a text"),
        ({"logprobs": "x"}, "logprobs is True or False"),
        ({"shift": 1}, "shift is True or False"),
        ({"keepalive": 3}, "unknown argument 'keepalive', did you mean 'keep_alive'"),
    ],
)
async def test_wrong_fields_fail_before_any_request(server: ScriptedOllama, fields: Any, says: str) -> None:
    """A wrong field is named and costs no request, streamed or not."""
    async with OllamaClient(server.url) as client:
        with pytest.raises(ConfigError, match=says):
            await client.chat("m", HI, **fields)
        with pytest.raises(ConfigError, match=says):
            async with client.stream_chat("m", HI, **fields):
                pass
    assert server.requests == []


@pytest.mark.parametrize("image", ["nowhere.png", "x" * 5000 + "!", "a\0b"])
async def test_an_image_that_does_not_exist_is_refused(server: ScriptedOllama, image: str) -> None:
    """What is neither a file nor base64 is named."""
    async with OllamaClient(server.url) as client:
        with pytest.raises(ConfigError, match="neither a file that exists nor base64"):
            await client.generate("m", "p", images=[image])
    assert server.requests == []


async def test_many_texts_are_embedded_over_the_packed_path(server: ScriptedOllama) -> None:
    """From sixteen texts on, base64 is asked for; the vectors are those of the other path, in order."""
    texts = [f"text {i}" for i in range(20)]
    async with OllamaClient(server.url) as client:
        packed = await client.embed("m", texts)
        plain = await client.embed("m", texts, truncate=True)
    assert [r.path for r in server.requests] == ["/v1/embeddings", "/api/embed"]
    assert [list(v) for v in packed.embeddings] == [list(v) for v in plain.embeddings]
    assert packed.prompt_eval_count == plain.prompt_eval_count > 0


@pytest.mark.parametrize(
    "answer",
    [
        Reply(404, body="404 page not found"),
        Reply(json={"data": [{"embedding": [0.5, 0.5], "index": 0}]}),
        Reply(json={"data": [{"embedding": "AAA", "index": 0}]}),
        Reply(json={"data": []}),
        *(error(status, "not for you") for status in (302, 400, 401, 403, 410, 500)),
        Reply(body="<html>log in", headers={"Content-Type": "text/html"}),
    ],
)
async def test_a_server_without_the_packed_path_is_asked_the_other_way(server: ScriptedOllama, answer: Reply) -> None:
    """Older and other servers are recognised by what they answer, and the vectors come all the same."""
    server.enqueue("POST /v1/embeddings", answer)
    async with OllamaClient(server.url) as client:
        assert len((await client.embed("m", ["x"] * 20)).embeddings) == 20
        assert len((await client.embed("m", ["y"] * 20)).embeddings) == 20
    assert len(server.requests_to("POST /api/embed")) >= 1


async def test_a_server_without_the_packed_path_is_asked_for_it_once(server: ScriptedOllama) -> None:
    """Each further batch would cost a request for nothing."""
    server.enqueue("POST /v1/embeddings", Reply(404, body="404 page not found"), repeat=True)
    async with OllamaClient(server.url) as client:
        for _ in range(3):
            await client.embed("m", ["x"] * 20)
    assert len(server.requests_to("POST /v1/embeddings")) == 1


async def test_the_packed_path_keeps_the_words_of_a_refusal(server: ScriptedOllama) -> None:
    """A missing model is said as by /api/embed, and the path is used again for the next."""
    missing = Reply(404, json={"error": {"message": "model 'nope' not found", "type": "not_found_error"}})
    server.enqueue("POST /v1/embeddings", missing)
    server.settings.only_listed = True
    async with OllamaClient(server.url) as client:
        with pytest.raises(ModelNotFound, match="try pulling it first"):
            await client.embed("nope", ["x"] * 20)
        await client.embed("llama3.2", ["x"] * 20)
    assert len(server.requests_to("POST /v1/embeddings")) == 2


async def test_one_bad_text_does_not_end_the_packed_path(server: ScriptedOllama) -> None:
    """What both ways refuse says nothing about the way."""
    server.enqueue("POST /v1/embeddings", error(400, "input length exceeds the context length"))
    server.enqueue("POST /api/embed", error(400, "the input length exceeds the context length"))
    async with OllamaClient(server.url) as client:
        with pytest.raises(StatusError, match="the input length"):
            await client.embed("m", ["x"] * 20)
        await client.embed("m", ["x"] * 20)
    assert [r.path for r in server.requests] == ["/v1/embeddings", "/api/embed", "/v1/embeddings"]


async def test_a_busy_server_is_not_asked_the_other_way(server: ScriptedOllama) -> None:
    """It would be as busy there."""
    server.enqueue("POST /v1/embeddings", error(503, "server busy"), repeat=True)
    async with OllamaClient(server.url, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(ServerBusy):
            await client.embed("m", ["x"] * 20)
    assert {r.path for r in server.requests} == {"/v1/embeddings"}


@pytest.mark.parametrize("texts", [None, 5, b"x", ["x", 5], ["x"] * 20 + [None], {"x": "y"}, [["x"]]])
async def test_only_texts_are_embedded(server: ScriptedOllama, texts: Any) -> None:
    """Numbers would be read as tokens, and bytes as numbers."""
    async with OllamaClient(server.url) as client:
        with pytest.raises(ConfigError, match="texts is a text or a list of texts"):
            await client.embed("m", texts)
        for dimensions in (0, 1.5, True, "8"):
            with pytest.raises(ConfigError, match="dimensions is an integer of at least 1"):
                await client.embed("m", "x", dimensions=dimensions)  # type: ignore[arg-type]
    assert not server.requests


@pytest.mark.parametrize(
    "settings",
    [
        {"host": 5},
        {"headers": [("a", "b")]},
        {"headers": {"x": 5}},
        {"headers": {"x": "a\r\nb"}},
        {"headers": {"x": "ü"}},
        {"headers": {"Content-Length": "3"}},
        {"timeouts": 5},
        {"retry": 5},
        {"max_connections": 0},
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any]) -> None:
    """A client that could never send a request is not made."""
    with pytest.raises(ConfigError):
        OllamaClient(**settings)


async def test_what_json_cannot_hold_is_refused(server: ScriptedOllama) -> None:
    """Half a character in a request is a ConfigError; whole, streamed and embedded."""
    content = "half \ud800"
    messages = [{"role": "user", "content": content}]
    async with OllamaClient(server.url) as client:
        with pytest.raises(ConfigError, match="written as JSON"):
            await client.chat("m", messages)
        with pytest.raises(ConfigError, match="written as JSON"):
            async with client.stream_chat("m", messages):
                pass
        with pytest.raises(ConfigError, match="written as JSON"):
            await client.embed("m", [content])
    assert server.requests == []


BAD_OPTIONS: list[tuple[str, Any]] = [
    ("num_ctx", "4096"),
    ("num_ctx", 0),
    ("num_ctx", 4096.5),
    ("top_k", True),
    ("num_predict", -3),
    ("temperature", "hot"),
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("top_p", 1.5),
    ("min_p", [0.1]),
    ("stop", ["a", 1]),
    ("stop", 5),
    ("use_mmap", 1),
]


@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS)
async def test_an_option_of_a_wrong_type_is_refused_before_any_request(
    server: ScriptedOllama, name: str, value: Any
) -> None:
    """The server would answer 500, which looks like a fault of its own."""
    async with OllamaClient(server.url) as client:
        for ask in (
            client.chat("m", [], options={name: value}),
            client.generate("m", "x", options={name: value}),
            client.embed("m", "x", options={name: value}),
        ):
            with pytest.raises(ConfigError, match=f"the option {name} is "):
                await ask
    assert not server.requests


async def test_an_option_that_is_not_known_is_told_once(
    server: ScriptedOllama, caplog: pytest.LogCaptureFixture
) -> None:
    """The server ignores it without a word, which is how a typing error goes unseen."""
    caplog.set_level(logging.WARNING)
    async with OllamaClient(server.url) as client:
        for _ in range(2):
            await client.generate("m", "x", options={"temprature": 0.5})
    assert [r.json["options"] for r in server.requests] == [{"temprature": 0.5}] * 2
    assert [r.message for r in caplog.records] == [
        "the option 'temprature' is sent, but Ollama may not know it, did you mean 'temperature'?"
    ]


BAD_MESSAGES: list[Any] = [
    {"content": "hi"},
    {"role": 5, "content": "hi"},
    {"role": "user", "content": 5},
    {"role": "assistant", "content": "", "tool_calls": "x"},
    "hi",
]


@pytest.mark.parametrize("message", BAD_MESSAGES)
async def test_a_message_of_a_wrong_shape_is_refused(server: ScriptedOllama, message: Any) -> None:
    """Before any request, whose refusal would be in Go's words."""
    async with OllamaClient(server.url) as client:
        with pytest.raises(ConfigError, match=" is a "):
            await client.chat("m", [message])
    assert not server.requests


async def test_a_message_is_any_mapping(server: ScriptedOllama) -> None:
    """Also one that cannot be changed; its images are encoded as those of a dict."""
    async with OllamaClient(server.url) as client:
        await client.chat("m", [MappingProxyType({"role": "user", "content": "x", "images": [PNG]})])
    sent = {"role": "user", "content": "x", "images": [base64.b64encode(PNG).decode()]}
    assert server.requests[-1].json["messages"] == [sent]


async def test_flags_and_texts_of_other_calls_are_checked(server: ScriptedOllama) -> None:
    """Those of completions, downloads and details."""
    bad: Any = {"raw": "yes", "suffix": 5, "context": "1 2"}
    wrong: Any = "x"
    async with OllamaClient(server.url) as client:
        for name, value in bad.items():
            with pytest.raises(ConfigError, match=f"{name} is "):
                await client.generate("m", "p", **{name: value})
        for ask in (client.pull, client.push):
            with pytest.raises(ConfigError, match="insecure is True or False"):
                await ask("m", insecure=wrong)
        with pytest.raises(ConfigError, match="verbose is True or False"):
            await client.show("m", verbose=wrong)
    assert not server.requests


async def test_options_are_sent_as_the_server_takes_them(server: ScriptedOllama) -> None:
    """None is left out, one `stop` becomes a list, and what is unknown here may be known there."""
    async with OllamaClient(server.url) as client:
        await client.chat("m", HI, options={"stop": "a", "seed": None, "top_p": 1, "new_one": {"x": 1}})
    assert server.requests[-1].json["options"] == {"stop": ["a"], "top_p": 1, "new_one": {"x": 1}}


@pytest.mark.parametrize("value", ["300", "-1", "soon", "", [1], True, float("nan")])
async def test_a_duration_that_the_server_cannot_read_is_refused(server: ScriptedOllama, value: Any) -> None:
    """A text without a unit is what people write most."""
    async with OllamaClient(server.url) as client:
        with pytest.raises(ConfigError, match="keep_alive is a number of seconds"):
            await client.chat("m", HI, keep_alive=value)
        for fine in ("5m", "1h30m", "-1s", "0", 300, -1, 0.5, timedelta(minutes=5)):
            await client.chat("m", HI, keep_alive=fine)


@pytest.mark.parametrize("images", [5, "cat.png", b"png", [5], [["x"]]])
async def test_images_are_a_list_of_images(server: ScriptedOllama, images: Any) -> None:
    """One path is not read letter by letter."""
    async with OllamaClient(server.url) as client:
        with pytest.raises(ConfigError, match="image"):
            await client.generate("m", "x", images=images)
        with pytest.raises(ConfigError, match="image"):
            await client.chat("m", [{"role": "user", "content": "x", "images": images}])
    assert not server.requests


async def test_a_reply_that_calls_tools_first_has_nothing_to_parse(server: ScriptedOllama) -> None:
    """With tools and a format, the format is for the answer that follows."""
    call = {"function": {"name": "look", "arguments": {}}}
    server.enqueue("POST /api/chat", Reply(json={"message": {"content": "", "tool_calls": [call]}, "done": True}))
    async with OllamaClient(server.url) as client:
        reply = await client.chat("m", HI, format={"type": "object"})
    assert reply.parsed is None
    assert reply.message.tool_calls[0].function.name == "look"
