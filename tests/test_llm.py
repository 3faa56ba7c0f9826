"""The chat model: what its requests say, and what comes back, on a scripted Ollama and on the real engine."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from fakes import STALL, Raw, Reply, ScriptedOllama, line_chunk, ndjson, stream_head

from ollama_async_mem import OllamaClient, OllamaConfig, OllamaLLM
from ollama_async_mem.errors import ConfigError, ConnectFailed, ModelNotFound, ModelOutputError, TotalTimeout
from ollama_async_mem.llm import wire_format
from ollama_async_mem.ollama.schema import ChatMessage

if TYPE_CHECKING:
    from collections.abc import Callable

HI = [{"role": "user", "content": "hello there"}]
CALL = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
LONG = [{"role": "user", "content": "word " * 3000}]  # 15,000 bytes: about 5,000 tokens


class Person(msgspec.Struct):
    """A person."""

    name: str
    age: int


def weather(city: str) -> str:
    """Tell the weather."""
    return city


def chats(server: ScriptedOllama) -> list[dict[str, Any]]:
    """The bodies of the chats that a server was asked for."""
    return [request.json for request in server.requests_to("POST /api/chat")]


def saying(**message: Any) -> Reply:
    """A whole answer."""
    return Reply(json={"message": {"role": "assistant", **message}, "done": True})


async def test_a_text_is_answered_with_the_options_of_the_config(server: ScriptedOllama) -> None:
    """What is set goes out under the server's names, the rest is left to it; nothing else is asked of it."""
    config = OllamaConfig(
        model="m", temperature=0.3, top_k=None, stop="END", think=False, keep_alive="5m", ollama_base_url=server.url
    )
    async with OllamaLLM(config) as llm:
        assert await llm.generate_response(HI) == "You said: hello there"
    (body,) = chats(server)
    assert body == {
        "model": "m",
        "messages": HI,
        "stream": False,
        "think": False,
        "keep_alive": "5m",
        "options": {"temperature": 0.3, "num_predict": 2000, "top_p": 0.1, "stop": ["END"]},
    }
    assert len(server.requests) == 1


async def test_tools_give_a_dict(server: ScriptedOllama) -> None:
    """With tools the answer is its text and the calls, whether a function or its description was given."""
    server.enqueue("POST /api/chat", saying(content="", tool_calls=[CALL]), saying(content="no need"))
    async with OllamaLLM("m", client=OllamaClient(server.url)) as llm:
        called = await llm.generate_response(HI, tools=[weather])
        plain = await llm.generate_response(HI, tools=chats(server)[0]["tools"])
        await llm.client.aclose()
    assert called == {"content": "", "tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}
    assert plain == {"content": "no need", "tool_calls": []}
    assert chats(server)[0]["tools"] == chats(server)[1]["tools"]
    assert chats(server)[0]["tools"][0]["function"]["parameters"]["required"] == ["city"]


@pytest.mark.parametrize(
    ("response_format", "sent", "result"),
    [
        ({"type": "text"}, None, '{"name": "Ann", "age": 31}'),
        ({"type": "json_object"}, "json", '{"name": "Ann", "age": 31}'),
        ("json", "json", '{"name": "Ann", "age": 31}'),
        ({"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}, SCHEMA, {"name": "Ann", "age": 31}),
        (SCHEMA, SCHEMA, {"name": "Ann", "age": 31}),
        (Person, msgspec.json.schema(Person)["$defs"]["Person"], Person("Ann", 31)),
    ],
)
async def test_formats(server: ScriptedOllama, response_format: Any, sent: Any, result: Any) -> None:
    """JSON is a text, a schema or a type gives the object; a stream has the same result."""
    server.settings.answer = lambda _: '{"name": "Ann", "age": 31}'
    async with OllamaLLM({"base_url": server.url}) as llm:
        assert await llm.generate_response(HI, response_format) == result
        async with llm.stream_response(HI, response_format) as stream:
            assert "".join([piece async for piece in stream]) == '{"name": "Ann", "age": 31}'
            assert stream.result == result
    assert [body.get("format") for body in chats(server)] == [sent, sent]


def test_a_schema_that_is_announced_has_to_be_there() -> None:
    """OpenAI's shape without its schema is an error, not a format of its own."""
    with pytest.raises(ConfigError, match="json_schema"):
        wire_format({"type": "json_schema", "schema": SCHEMA})


async def test_an_answer_that_does_not_fit_is_an_error(server: ScriptedOllama) -> None:
    """JSON that was cut off is never an empty result."""
    server.settings.answer = lambda _: '{"name": "Ann", "ag'
    async with OllamaLLM({"base_url": server.url}) as llm:
        with pytest.raises(ModelOutputError) as caught:
            await llm.generate_response(HI, {"type": "json_object"})
    assert caught.value.output.startswith('{"name"')


async def test_a_stream_of_text(server: ScriptedOllama) -> None:
    """Pieces come one by one; afterwards there are the metrics, and the calls where tools were given."""
    lines = [{"message": {"content": piece}, "done": False} for piece in ("a", "", "b")]
    last = {"message": {"content": "", "tool_calls": [CALL]}, "done": True, "eval_count": 3}
    server.enqueue("POST /api/chat", ndjson(*lines, last))
    async with OllamaLLM({"base_url": server.url}) as llm, llm.stream_response(HI, tools=[weather]) as stream:
        assert [piece async for piece in stream.text()] == ["a", "b"]
        assert stream.response.eval_count == 3
    assert stream.result == {"content": "ab", "tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}


async def test_leaving_a_stream_closes_its_connection(server: ScriptedOllama) -> None:
    """After a break the server has nobody to write to."""
    server.enqueue("POST /api/chat", Raw([stream_head(), line_chunk({"message": {"content": "x"}}), STALL]))
    async with OllamaLLM({"base_url": server.url}) as llm:
        async with llm.stream_response(HI) as stream:
            async for piece in stream:
                assert piece == "x"
                break
        await server.wait_closed_connections(timeout_s=0.5)


async def test_the_port_of_a_memory(server: ScriptedOllama) -> None:
    """A schema is answered at temperature 0 with an instance, a text with the config's own; a stream gives texts."""
    server.settings.answer = lambda body: '{"name": "Ann", "age": 31}' if body.get("format") else "hi"
    async with OllamaLLM({"base_url": server.url, "temperature": None}) as llm:
        assert await llm.generate(HI, schema=Person) == Person("Ann", 31)
        assert await llm.generate(HI) == "hi"
        async with llm.stream(HI) as pieces:
            assert [piece async for piece in pieces] == ["hi"]
    assert [body["options"].get("temperature") for body in chats(server)] == [0, None, None]


async def test_whose_client_is_closed(server: ScriptedOllama) -> None:
    """A client of its own is closed, also without `async with` and twice; one that was given stays open."""
    own = OllamaLLM({"base_url": server.url, "headers": {"x-a": "1"}, "api_key": "k"})
    await own.generate_response(HI)
    assert (server.requests[0].headers["x-a"], server.requests[0].headers["authorization"]) == ("1", "Bearer k")
    await own.aclose()
    await own.aclose()
    await server.wait_closed_connections(timeout_s=0.5)
    async with OllamaClient(server.url) as client:
        async with OllamaLLM("m", client=client) as llm:
            await llm.generate_response(HI)
        assert await client.version()
    gc.collect()


async def test_a_call_has_the_time_that_the_config_gives_it(server: ScriptedOllama) -> None:
    """`timeout` is for a whole call, and for a stream to its end."""
    server.enqueue("POST /api/chat", Raw([STALL]))
    server.enqueue("POST /api/chat", Raw([stream_head(), line_chunk({"message": {"content": "x"}}), STALL]))
    async with OllamaLLM({"base_url": server.url, "timeout": 0.2}) as llm:
        with pytest.raises(TotalTimeout):
            await llm.generate_response(HI)
        async with llm.stream_response(HI) as stream:
            with pytest.raises(TotalTimeout):
                assert [piece async for piece in stream] == []


async def test_errors_are_those_of_the_client(server: ScriptedOllama) -> None:
    """A missing model, a missing server and wrong arguments are typed, and nothing is sent for the last."""
    server.settings.only_listed = True
    async with OllamaLLM({"model": "none", "base_url": server.url}) as llm:
        with pytest.raises(ModelNotFound):
            await llm.generate_response(HI)
        sent = len(server.requests)
        for messages in ("hi", [5], None):
            with pytest.raises(ConfigError):
                await llm.generate_response(messages)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="temprature"):
            OllamaLLM({"temprature": 1})
        assert len(server.requests) == sent
    await server.stop()
    async with OllamaLLM({"base_url": server.url}) as llm:
        with pytest.raises(ConnectFailed):
            await llm.generate_response(HI)


async def test_a_long_prompt_gets_a_context_that_fits(server: ScriptedOllama) -> None:
    """Up to 4,096 tokens none is asked for; from the first longer prompt on, all requests ask for the same."""
    async with OllamaLLM({"model": "m", "base_url": server.url}) as llm:
        await llm.generate_response(HI)
        await llm.generate_response(LONG)
        await llm.generate_response(HI)
        async with llm.stream([ChatMessage(role="user", content="x" * 15_000)]) as pieces:  # type: ignore[list-item]
            assert [piece async for piece in pieces]
    assert [body["options"].get("num_ctx") for body in chats(server)] == [None, 8192, 8192, 8192]
    assert (len(server.requests_to("GET /api/ps")), len(server.requests_to("POST /api/show"))) == (1, 1)


@pytest.mark.parametrize(
    ("capabilities", "config", "sent"),
    [
        (["completion"], {}, None),
        (["completion", "thinking"], {}, False),
        (["completion", "thinking"], {"think": "low"}, "low"),
    ],
)
async def test_typed_answers_come_without_thinking(
    server: ScriptedOllama, capabilities: list[str], config: dict[str, Any], sent: object
) -> None:
    """A model that thinks is told not to, unless the config says otherwise; others must not be told."""
    server.enqueue("POST /api/show", Reply(json={"capabilities": capabilities}), repeat=True)
    server.settings.answer = lambda _: '{"name": "Ann", "age": 3}'
    async with OllamaLLM({"model": "m", "base_url": server.url, **config}) as llm:
        for _ in range(2):
            assert (await llm.generate(HI, schema=Person)).name == "Ann"
        await llm.generate(HI)
    assert [body.get("think") for body in chats(server)] == [sent, sent, config.get("think")]
    assert len(server.requests_to("POST /api/show")) <= 1


@pytest.mark.parametrize(
    ("config", "messages", "tools", "num_ctx"),
    [
        ({"max_tokens": 100}, LONG, None, 8192),
        ({"max_tokens": 9000}, HI, None, 16384),
        ({"max_tokens": None}, LONG, None, 8192),
        ({"max_tokens": -1}, HI, None, None),
        ({}, [{"role": "user", "content": "", "images": [b"png"] * 3}], None, 8192),
        ({}, [{"role": "user", "content": "", "images": [b"x" * 30_000]}], None, None),
        ({}, HI, [{"type": "function", "function": {"name": "x" * 12_000}}], 8192),
        ({"num_ctx": 2048}, LONG, None, 2048),
    ],
)
async def test_what_counts(
    server: ScriptedOllama, config: dict[str, Any], messages: list[Any], tools: Any, num_ctx: int | None
) -> None:
    """Messages, images, tools and the room for the answer count; a number in the config is sent as it is."""
    async with OllamaLLM({**config, "base_url": server.url}) as llm:
        await llm.generate_response(messages, tools=tools)
    assert chats(server)[0]["options"].get("num_ctx") == num_ctx


async def test_a_prompt_that_cannot_fit_is_told(server: ScriptedOllama, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the numbers, also where the config's own context is too small; the prompt's words are not in it."""
    with caplog.at_level(logging.WARNING):
        async with OllamaLLM({"model": "m", "num_ctx": 2048, "base_url": server.url}) as llm:
            await llm.generate_response(HI)
            assert caplog.messages == []
            await llm.generate_response(LONG)
    (message,) = caplog.messages
    assert "m with its answer takes about 7" in message
    assert "its context has 2048" in message
    assert "word" not in message


async def test_a_real_model_answers(engine: str) -> None:
    """On the engine: the right text, whole and streamed, an object, and a context that is really loaded."""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    async with OllamaLLM({"model": "smollm2:135m", "base_url": engine, "temperature": 0, "max_tokens": 40}) as llm:
        answer = await llm.generate_response(question)
        assert "Paris" in answer
        async with llm.stream_response(question) as stream:
            assert "".join([piece async for piece in stream]) == answer == stream.result
        tom = [{"role": "user", "content": "Tom is 5 years old. Who is he? Answer in JSON."}]
        assert isinstance(await llm.generate_response(tom, Person), Person)
        text = await llm.generate_response(tom, {"type": "json_schema", "json_schema": {"schema": SCHEMA}})
        assert isinstance(text["name"], str)
    roomy = {"model": "smollm2:135m", "base_url": engine, "temperature": 0, "max_tokens": 6000, "stop": "."}
    async with OllamaLLM(roomy) as llm:
        assert "Paris" in await llm.generate_response(question)
        contexts = {running.name: running.context_length for running in await llm.client.ps()}
        assert contexts["smollm2:135m"] == 8192


@pytest.mark.parametrize("make", [OllamaLLM, lambda: OllamaLLM({}), lambda: OllamaLLM(OllamaConfig())])
def test_without_arguments_it_is_that_of_mem0(make: Callable[[], OllamaLLM]) -> None:
    """Outside any event loop it can be made, and shows its config without secrets."""
    llm = make()
    assert llm.config == OllamaConfig()
    assert llm.model == "llama3.1:70b"
    assert repr(llm).startswith("OllamaLLM(OllamaConfig(")
