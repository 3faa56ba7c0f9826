"""Wire records of Ollama's API, and the lenient second way of decoding them.

Field names are those of the server (github.com/ollama/ollama, api/types.go). Durations are integers in
nanoseconds, absent ones are 0. Unknown fields are ignored; what the server leaves out has a default.
"""

from __future__ import annotations

import re
import sys
from array import array
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from ollama_async_mem.errors import ProtocolError

__all__ = [
    "UNREADABLE",
    "ChatChunk",
    "ChatMessage",
    "ChatResponse",
    "EmbedBody",
    "EmbedResponse",
    "ErrorBody",
    "GenerateChunk",
    "GenerateResponse",
    "Logprob",
    "ModelDetails",
    "ModelInfo",
    "PackedEmbeddings",
    "PsResponse",
    "PullProgress",
    "RunningModel",
    "ShowResponse",
    "TagsResponse",
    "ToolCall",
    "ToolFunction",
    "VersionResponse",
    "decode",
    "decode_line",
    "failure",
]

T = TypeVar("T")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not JSON of a type, or nested too deeply."""

_COMPLAINT = re.compile(rb'\s*\{\s*"error"')
_HALF_CHARACTER = re.compile(  # a surrogate without its other half; whole pairs and escaped backslashes are passed over
    r"\\\\|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(\\u[dD][89a-fA-F][\da-fA-F]{2})"
)
_WHOLE = ("_count", "_duration", "_length", "size", "size_vram", "total", "completed", "index")
_FREE = {"arguments", "model_info"}  # a model's or a file's own words; OpenAI's way is a text of JSON


class ToolFunction(msgspec.Struct):
    """The function a model wants called; `arguments` is a JSON object."""

    name: str = ""
    arguments: dict[str, Any] = {}
    index: int = 0


class ToolCall(msgspec.Struct, omit_defaults=True):
    """One call a model asks for."""

    function: ToolFunction = msgspec.field(default_factory=ToolFunction)
    id: str = ""


class ChatMessage(msgspec.Struct, omit_defaults=True, gc=False):
    """A message as the server sends and takes it; `images` are base64."""

    role: str = msgspec.field(default_factory=lambda: "assistant")  # so it is written, as plain defaults are not
    content: str = ""
    thinking: str = ""
    images: list[str] = []
    tool_calls: list[ToolCall] = []
    tool_name: str = ""
    tool_call_id: str = ""


class TokenLogprob(msgspec.Struct, gc=False):
    """A token's probability; `bytes` are its UTF-8 bytes, of which a token may hold a part."""

    token: str = ""
    logprob: float = 0.0
    bytes: list[int] = []


class Logprob(TokenLogprob, gc=False):
    """The probability of a token of the answer, and of the others that were likely there."""

    top_logprobs: list[TokenLogprob] = []


class _Metrics(msgspec.Struct, gc=False):
    """What every chunk carries; the metrics are on the last one."""

    model: str = ""
    created_at: str = ""
    remote_model: str = ""
    remote_host: str = ""
    done: bool = False
    done_reason: str = ""
    logprobs: list[Logprob] = []
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    error: Any = None
    """The server's complaint in place of a chunk; callers never see it, it is raised as `StreamFailed`."""

    @property
    def tokens_per_second(self) -> float:
        """Speed of generation; 0 where the server did not measure it."""
        return self.eval_count / self.eval_duration * 1e9 if self.eval_duration else 0.0


class ChatChunk(_Metrics, gc=False):
    """One line of a streamed answer. The last one has `done` set and carries the metrics."""

    message: ChatMessage = msgspec.field(default_factory=ChatMessage)


class ChatResponse(ChatChunk):
    """A whole answer with its metrics. `parsed` holds the object that `format=` asked for."""

    parsed: Any = msgspec.field(default=None, name="-parsed")


class GenerateChunk(_Metrics, gc=False):
    """One line of a streamed completion."""

    response: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = []
    context: list[int] = []


class GenerateResponse(GenerateChunk):
    """A whole completion with its metrics. `parsed` holds the object that `format=` asked for."""

    parsed: Any = msgspec.field(default=None, name="-parsed")


class EmbedResponse(msgspec.Struct):
    """One vector of float32 for each text, in order. `numpy.asarray(vector)` copies nothing."""

    model: str = ""
    embeddings: list[memoryview] = []
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


class EmbedBody(EmbedResponse):
    """The same as it stands on the wire, with lists of numbers."""

    embeddings: list[list[float]] = []  # type: ignore[assignment]

    def response(self) -> EmbedResponse:
        """Make the lists float32 buffers."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "embeddings"}
        return EmbedResponse(embeddings=[memoryview(array("f", v)) for v in self.embeddings], **fields)


class PullProgress(msgspec.Struct):
    """One status line of a pull, push or create; `completed` of `total` bytes where a layer is moved."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: Any = None


class PackedEmbedding(msgspec.Struct):
    """One vector of /v1/embeddings: base64 of little-endian float32, which msgspec decodes, and its place."""

    embedding: bytes
    index: int = 0


class PackedUsage(msgspec.Struct):
    """Tokens of a request to /v1/embeddings."""

    prompt_tokens: int = 0


class PackedEmbeddings(msgspec.Struct):
    """The answer of /v1/embeddings with `encoding_format` "base64"."""

    data: list[PackedEmbedding]
    model: str = ""
    usage: PackedUsage = msgspec.field(default_factory=PackedUsage)

    def response(self) -> EmbedResponse:
        """Give the buffers as they came, in the order of the texts."""
        rows = sorted(self.data, key=attrgetter("index"))
        vectors: list[Any] = [memoryview(_native(row.embedding)).cast("f") for row in rows]
        return EmbedResponse(model=self.model, embeddings=vectors, prompt_eval_count=self.usage.prompt_tokens)


def _native(data: bytes) -> bytes:
    if sys.byteorder == "little":
        return data
    swapped = array("f", data)
    swapped.byteswap()
    return swapped.tobytes()


class ModelDetails(msgspec.Struct):
    """What kind of model it is."""

    format: str = ""
    family: str = ""
    families: list[str] = []
    parameter_size: str = ""
    quantization_level: str = ""
    parent_model: str = ""
    context_length: int = 0
    embedding_length: int = 0


class ModelInfo(msgspec.Struct):
    """An installed model; `size` in bytes."""

    name: str = ""
    modified_at: str = ""
    size: int = 0
    digest: str = ""
    details: ModelDetails = msgspec.field(default_factory=ModelDetails)
    capabilities: list[str] = []


class RunningModel(msgspec.Struct):
    """A loaded model; sizes in bytes, `expires_at` is when it is unloaded, as the server writes it."""

    name: str = ""
    size: int = 0
    size_vram: int = 0
    digest: str = ""
    details: ModelDetails = msgspec.field(default_factory=ModelDetails)
    expires_at: str = ""
    context_length: int = 0

    @property
    def gpu_share(self) -> float:
        """How much of it is in the GPU's memory, 0 to 1."""
        return self.size_vram / self.size if self.size else 0.0

    @property
    def expires(self) -> datetime | None:
        """When it is unloaded, None where that cannot be read; one that stays has a year far ahead."""
        try:
            return msgspec.convert(self.expires_at, datetime)
        except msgspec.ValidationError:
            return None


class PsResponse(msgspec.Struct):
    """The loaded models."""

    listed: list[RunningModel] | None = msgspec.field(name="models")

    @property
    def models(self) -> list[RunningModel]:
        """The models, where null stands for none; an answer without them is another server's."""
        return self.listed or []


class TagsResponse(msgspec.Struct):
    """The installed models, newest first."""

    listed: list[ModelInfo] | None = msgspec.field(name="models")

    @property
    def models(self) -> list[ModelInfo]:
        """The models, where null stands for none; an answer without them is another server's."""
        return self.listed or []


class ShowResponse(msgspec.Struct):
    """All about one model."""

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    details: ModelDetails = msgspec.field(default_factory=ModelDetails)
    model_info: dict[str, Any] = {}
    capabilities: list[str] = []
    modified_at: str = ""

    @property
    def embedding_length(self) -> int:
        """Length of the model's vectors, 0 where the server does not say."""
        return self._info("embedding_length")

    @property
    def context_length(self) -> int:
        """Most tokens the model was trained for, 0 where the server does not say."""
        return self._info("context_length")

    def _info(self, key: str) -> int:
        value = self.model_info.get(f"{self.model_info.get('general.architecture')}.{key}", 0)
        return value if isinstance(value, int) else 0


class VersionResponse(msgspec.Struct):
    """The server's version."""

    version: str


class ErrorBody(msgspec.Struct):
    """The body of every refusal."""

    error: Any = ""
    signin_url: Any = ""


_ERROR = msgspec.json.Decoder(ErrorBody)


def failure(error: object) -> str | None:
    """Read an `error`: the text of a failure, or None where there is none (absent, null and empty)."""
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error) if error else None


def decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a whole answer.

    Raises:
        ProtocolError: it is not JSON, or not of this shape; or it is an error, though its status is a success.
    """
    if _COMPLAINT.match(data) and (complaint := failure(decode_line(data, _ERROR).error)):
        raise ProtocolError(f"the server sent an error in place of an answer: {complaint}")
    return decode_line(data, decoder)


def decode_line(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode one JSON document, leniently where the strict way fails.

    Raises:
        ProtocolError: it is not JSON, or not of this shape.
    """
    try:
        return decoder.decode(data)
    except UNREADABLE:
        return _decode_leniently(data, decoder.type)


def _decode_leniently(data: bytes, type_: type[T]) -> T:
    """Decode what other servers and proxies send: nulls for absent, floats for integers, broken UTF-8."""
    text = data.decode(errors="replace").removeprefix("\ufeff")
    try:
        raw = msgspec.json.decode(_HALF_CHARACTER.sub(lambda found: "\\ufffd" if found[1] else found[0], text))
        return msgspec.convert(_tidy(raw), type_, strict=False)
    except (*UNREADABLE, ValueError, OverflowError) as exc:
        raise ProtocolError(f"the server sent what Ollama does not send ({exc}): {_excerpt(data)}") from exc


def _tidy(value: Any) -> Any:
    """Drop nulls and cut fractions off counts, durations and sizes, at any depth of what has a shape."""
    if isinstance(value, dict):
        return {name: _tidied(name, field) for name, field in value.items() if field is not None}
    return [_tidy(v) for v in value] if isinstance(value, list) else value


def _tidied(name: str, value: Any) -> Any:
    if name in _FREE:
        return msgspec.json.decode(value or "{}") if isinstance(value, str) else value
    return int(value) if isinstance(value, float) and name.endswith(_WHOLE) else _tidy(value)


def _excerpt(data: bytes, limit: int = 200) -> str:
    text = data[: limit + 1].decode(errors="replace").strip()
    return repr(text[:limit]) + ("..." if len(data) > limit else "")
