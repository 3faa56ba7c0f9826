"""Wire records of Ollama's API; `_decode` reads them.

Field names are those of the server (github.com/ollama/ollama, api/types.go). Durations are integers in
nanoseconds, absent ones are 0. Unknown fields are ignored; what the server leaves out has a default.
"""

from __future__ import annotations

import sys
from array import array
from datetime import datetime
from operator import attrgetter
from typing import Any

import msgspec

__all__ = [
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
    "TensorInfo",
    "ToolCall",
    "ToolFunction",
    "VersionResponse",
]


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
        buffers = [memoryview(array("f", numbers)) for numbers in self.embeddings]
        return EmbedResponse(self.model, buffers, self.total_duration, self.load_duration, self.prompt_eval_count)


class PullProgress(msgspec.Struct):
    """One status line of a pull, push or create; `completed` of `total` bytes where a layer is moved."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: Any = None


class PackedEmbedding(msgspec.Struct):
    """One vector of /v1/embeddings: base64 of little-endian float32, which msgspec decodes, and its place."""

    embedding: bytearray  # so that callers may write to it, as to any other vector
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


def _native(data: bytearray) -> bytearray:
    if sys.byteorder == "little":
        return data
    swapped = array("f", data)
    swapped.byteswap()
    return bytearray(swapped.tobytes())


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
    """An installed model; `size` in bytes, `model` is its name once more."""

    name: str = ""
    model: str = ""
    remote_model: str = ""
    remote_host: str = ""
    modified_at: str = ""
    size: int = 0
    digest: str = ""
    details: ModelDetails = msgspec.field(default_factory=ModelDetails)
    capabilities: list[str] = []


class RunningModel(msgspec.Struct):
    """A loaded model; sizes in bytes, `expires_at` is when it is unloaded, as the server writes it."""

    name: str = ""
    model: str = ""
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


class TensorInfo(msgspec.Struct):
    """One tensor of a model."""

    name: str = ""
    type: str = ""
    shape: list[int] = []


class ShowResponse(msgspec.Struct):
    """All about one model; `tensors` come where `verbose` was asked for, `messages` are those of its Modelfile."""

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    details: ModelDetails = msgspec.field(default_factory=ModelDetails)
    model_info: dict[str, Any] = {}
    projector_info: dict[str, Any] = {}
    tensors: list[TensorInfo] = []
    messages: list[ChatMessage] = []
    capabilities: list[str] = []
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_model: str = ""
    remote_host: str = ""
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
