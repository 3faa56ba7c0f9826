"""Checks a chat or generate request as Ollama does and turns it into a job. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from . import names
from .faults import ApiError, bad_request
from .generation import Job
from .options import parse_options, response_format, sampling, wants_thinking
from .shapes import ChatShape, GenerateShape
from .wire import ChatRequest, GenerateRequest, Message, keep_alive_of

if TYPE_CHECKING:
    from .catalogue import Catalogue, Model

__all__ = ["chat_job", "find_model", "generate_job"]

_CHAT_PATH = "/v1/chat/completions"
_RAW_PATH = "/completion"


def find_model(catalogue: Catalogue, name: str, missing: str) -> Model:
    """The model of a name. Raises ApiError: 404 with the given text, 400 for what is no name."""
    if name and names.canonical(name) is None:
        raise bad_request("invalid model name")
    model = catalogue.find(name)
    if model is None:
        raise ApiError(404, missing)
    return model


def chat_job(catalogue: Catalogue, request: ChatRequest) -> Job:
    """A job for /api/chat. Raises ApiError for whatever Ollama refuses."""
    called = request.model or ""
    if not called:
        raise bad_request("model is required")
    model = find_model(catalogue, called, f"model '{called}' not found")
    thinks = _capable(model, called, "chat", think=request.think, tools=request.tools)
    if any(message.images for message in request.messages or ()):
        raise bad_request(f"{names.full_name(model.name)} does not support vision")
    body = {
        "messages": _messages(request.messages or [], model.system),
        **_constraints(model, request, thinks=thinks),
    }
    if request.tools:
        body["tools"] = request.tools
    return _job(request, model, _CHAT_PATH, body, ChatShape(), may_truncate=request.truncate is not False)


def generate_job(catalogue: Catalogue, request: GenerateRequest) -> Job:
    """A job for /api/generate. Raises ApiError for whatever Ollama refuses."""
    called = request.model or ""
    model = find_model(catalogue, called, f"model '{called}' not found")
    thinks = _capable(model, called, "generate", think=request.think, tools=None)
    if request.images:
        raise bad_request(f"{names.full_name(model.name)} does not support vision")
    if request.suffix:
        raise bad_request(f"{names.full_name(model.name)} does not support insert")
    if request.raw:
        return _job(request, model, _RAW_PATH, _raw_body(model, request), GenerateShape(), may_truncate=False)
    turns = [Message(role="user", content=request.prompt)]
    if request.system:
        turns.insert(0, Message(role="system", content=request.system))
    body = {"messages": _messages(turns, model.system), **_constraints(model, request, thinks=thinks)}
    return _job(request, model, _CHAT_PATH, body, GenerateShape(), may_truncate=False)


def _job(
    request: ChatRequest | GenerateRequest,
    model: Model,
    path: str,
    body: dict[str, Any],
    shape: ChatShape | GenerateShape,
    *,
    may_truncate: bool,
) -> Job:
    return Job(
        model=model,
        called=request.model or "",
        path=path,
        body=body,
        shape=shape,
        num_ctx=parse_options(request.options).num_ctx,
        keep_alive_s=keep_alive_of(request),
        may_truncate=may_truncate,
    )


def _capable(model: Model, called: str, task: str, *, think: object, tools: object) -> bool | None:
    """Whether to think. Raises ApiError (400) when the model cannot do what is asked."""
    thinks = wants_thinking(think)
    if model.kind != "chat":
        raise bad_request(f'"{called}" does not support {task}')
    if tools and "tools" not in model.capabilities:
        raise bad_request(f"{names.full_name(model.name)} does not support tools")
    if thinks and "thinking" not in model.capabilities:
        raise bad_request(f'"{called}" does not support thinking')
    return thinks


def _constraints(model: Model, request: ChatRequest | GenerateRequest, *, thinks: bool | None) -> dict[str, Any]:
    """Everything of a llama.cpp chat request but the messages."""
    fields = sampling(parse_options(request.options, model.parameters))
    if constraint := response_format(request.format):
        fields["response_format"] = constraint
    if "thinking" in model.capabilities:
        fields["reasoning_format"] = "deepseek"
        fields["chat_template_kwargs"] = {"enable_thinking": thinks is not False}
    return fields


def _raw_body(model: Model, request: GenerateRequest) -> dict[str, Any]:
    """A prompt that goes to the model as it is."""
    body = {"prompt": request.prompt or "", **sampling(parse_options(request.options, model.parameters))}
    if constraint := response_format(request.format):
        body["json_schema"] = constraint.get("json_schema", {}).get("schema", {"type": "object"})
    return body


def _messages(messages: list[Message], system: str) -> list[dict[str, Any]]:
    """llama.cpp's messages, with the model's own system prompt where the request has none, as Ollama."""
    turns = [_message(message) for message in messages]
    if system and turns and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    return turns


def _message(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role.lower(), "content": message.content or ""}
    if message.thinking:
        turn["reasoning_content"] = message.thinking
    if message.tool_name:
        turn["name"] = message.tool_name
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [_llama_call(index, call) for index, call in enumerate(message.tool_calls)]
    return turn


def _llama_call(index: int, call: dict[str, Any]) -> dict[str, Any]:
    """A call in OpenAI's shape, with its arguments as text."""
    function = call.get("function") or {}
    arguments = msgspec.json.encode(function.get("arguments") or {}).decode()
    return {
        "id": call.get("id") or f"call_{index}",
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": arguments},
    }
