"""What a chat model and an embedder can be told: names and defaults of the classes that Mem0's users know."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

import msgspec
from msgspec import Meta

from ollama_async_mem.config.checks import Place, check_values, checked, wrong_value

__all__ = [
    "FINITE",
    "LONGEST_S",
    "ConnectionConfig",
    "EmbedderConfig",
    "Factor",
    "Name",
    "OllamaConfig",
    "Size",
    "Switch",
]

_MOST = 2**53  # beyond it a JSON number is not the integer that was written
FINITE = sys.float_info.max
LONGEST_S = 2**31 - 1
_HIDDEN = "***"
_CREDENTIALS = re.compile(r"^(\w+://)?.*@", re.DOTALL)  # greedy: a password may have any character

Name: TypeAlias = Annotated[str, Meta(pattern=r"\S", description="a text that is not blank")]
Text: TypeAlias = Annotated[str, Meta(description="a text")]
Texts: TypeAlias = Annotated[dict[str, str], Meta(description="a mapping of texts to texts")]
Stops: TypeAlias = Annotated[list[str], Meta(description="a list of texts")]
Switch: TypeAlias = Annotated[bool, Meta(description="true or false")]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
Penalty: TypeAlias = Annotated[float, Meta(ge=-FINITE, le=FINITE, description="a number")]
Factor: TypeAlias = Annotated[float, Meta(ge=0, le=FINITE, description="a number from 0")]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=_MOST, description="an integer from 0")]
Size: TypeAlias = Annotated[int, Meta(ge=1, le=_MOST, description="an integer from 1")]
SizeOrAll: TypeAlias = Annotated[int, Meta(ge=-1, le=_MOST, description="an integer from 0, or -1")]
Seed: TypeAlias = Annotated[int, Meta(ge=-_MOST, le=_MOST, description="an integer")]
Tokens: TypeAlias = Annotated[
    int, Meta(ge=-2, le=_MOST, description="an integer from 1, -1 for no limit, or -2 for the rest of the context")
]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=LONGEST_S, description="a number of seconds above 0")]
Stay: TypeAlias = Annotated[
    float, Meta(ge=-LONGEST_S, le=LONGEST_S, description="a number of seconds, below 0 for ever")
]
Duration: TypeAlias = Annotated[
    str, Meta(pattern=r"^[-+]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h))+)$", description="a text such as '5m'")
]
Thinking: TypeAlias = Annotated[
    bool | Literal["low", "medium", "high", "max"], Meta(description="true, false, 'low', 'medium', 'high' or 'max'")
]

Overflow: TypeAlias = Annotated[
    Literal["split", "truncate", "error"], Meta(description="'split', 'truncate' or 'error'")
]


class ConnectionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is and how it is spoken to: what the configurations of models have in common.

    Args:
        ollama_base_url: the server, in the grammar of OLLAMA_HOST, which is the default.
        api_key: sent as `Authorization: Bearer`; by default OLLAMA_API_KEY for https servers.
        headers: sent with every request.
        timeout: seconds that a call with its retries may take, or a stream to its end.
        keep_alive: how long the model stays loaded: seconds, or a text such as "5m"; below 0 for ever.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    ollama_base_url: Name | None = None
    api_key: Name | None = None
    headers: Texts | None = None
    timeout: Seconds | None = None
    keep_alive: Stay | Duration | None = None

    ALIASES: ClassVar[dict[str, str]] = {"base_url": "ollama_base_url", "host": "ollama_base_url"}
    INSTEAD: ClassVar[dict[str, str]] = {"http_client_proxies": "leave it out, HTTP_PROXY and HTTPS_PROXY name proxies"}

    def __post_init__(self) -> None:
        check_values(self)

    @classmethod
    def of(cls, config: Self | Mapping[str, Any] | str | None) -> Self:
        """Make a configuration of a mapping, of a model's name, or of nothing."""
        if isinstance(config, cls):
            return config
        if isinstance(config, str):
            config = {"model": config}
        return cls(**cls.checked({} if config is None else config, Place()))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Make a configuration of what a settings file says; `base_url` is `ollama_base_url`.

        Raises:
            ConfigError: a key is unknown, which names the nearest known one, or a value cannot be.
        """
        return cls(**cls.checked(mapping, Place()))

    @classmethod
    def checked(cls, mapping: object, place: Place) -> dict[str, Any]:
        """Check what stands at a place and give it the names of the fields.

        Raises:
            ConfigError: as `from_mapping`; the text begins with the place.
        """
        return checked(cls, mapping, place)

    @property
    def connection(self) -> tuple[object, ...]:
        """What two configurations share when one client can serve both."""
        return self.ollama_base_url, self.api_key, tuple((self.headers or {}).items()), self.timeout

    def without_timeout(self) -> Self:
        """The same for what is no answer of the model, such as pulling it."""
        return self if self.timeout is None else msgspec.structs.replace(self, timeout=None)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Give what is set, without secrets."""
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [(name, _masked(name, value)) for name, value in values if value is not None]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class OllamaConfig(ConnectionConfig, frozen=True, kw_only=True):
    """A chat model and how it answers. None is the model's own choice, or the server's.

    Args:
        model: the model's name.
        temperature, top_p, top_k, min_p, typical_p: how freely the model chooses its next token.
        max_tokens: where an answer is cut (the server's `num_predict`).
        repeat_penalty, repeat_last_n, presence_penalty, frequency_penalty: what keeps it from repeating itself.
        seed: the same seed gives the same answer.
        stop: texts that end an answer.
        num_ctx: tokens of context. None sizes it to the prompts, see `ModelManager.context_size`.
        num_keep: tokens at the beginning that stay when the context overflows.
        num_gpu, main_gpu, num_thread, num_batch, use_mmap, draft_num_predict: how the model is loaded; a change of
            one of these, or of `num_ctx`, loads the model anew for everybody who uses it.
        think: whether, or how much, a model that can think does.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    model: Name = "llama3.1:70b"
    temperature: Factor | None = 0.1
    max_tokens: Tokens | None = 2000
    top_p: Share | None = 0.1
    top_k: Count | None = 1
    min_p: Share | None = None
    typical_p: Share | None = None
    repeat_penalty: Factor | None = None
    repeat_last_n: SizeOrAll | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stops | Text | None = None
    num_ctx: Size | None = None
    num_keep: SizeOrAll | None = None
    num_gpu: SizeOrAll | None = None
    main_gpu: Count | None = None
    num_thread: Count | None = None
    num_batch: Size | None = None
    use_mmap: Switch | None = None
    draft_num_predict: Count | None = None
    think: Thinking | None = None

    INSTEAD: ClassVar[dict[str, str]] = {
        **ConnectionConfig.INSTEAD,
        "num_predict": "it is called 'max_tokens' here",
        "enable_vision": "leave it out, images in messages are always seen",
        "vision_details": "leave it out, images are sent as they are",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens == 0:  # the server takes it for no limit
            raise wrong_value("max_tokens", 0, "an integer from 1, -1 or -2, or null for the model's own")
        if isinstance(self.stop, str):  # the server answers 500 to it
            msgspec.structs.force_setattr(self, "stop", [self.stop])

    @classmethod
    def checked(cls, mapping: object, place: Place) -> dict[str, Any]:
        """Check as for all; `stream` says nothing here, where both ways are methods."""
        if isinstance(mapping, Mapping) and isinstance(mapping.get("stream"), bool):
            mapping = {name: value for name, value in mapping.items() if name != "stream"}
        return super().checked(mapping, place)

    @property
    def options(self) -> dict[str, Any]:
        """The `options` of Ollama's requests: what is set, under the server's names."""
        values = ((wire, getattr(self, name)) for name, wire in _OPTIONS.items())
        return {wire: value for wire, value in values if value is not None}


class EmbedderConfig(ConnectionConfig, frozen=True, kw_only=True):
    """An embedding model.

    Args:
        model: the model's name.
        embedding_dims: length of the vectors, where the model can make shorter ones than its own.
        query_prefix: what stands before a text that looks for others; None is what the model was trained with.
        document_prefix: the same for a text that is to be found.
        overflow: what becomes of a text that is longer than the model's context: "split" embeds it in up to 32 pieces
            and takes their mean, "truncate" has the server drop its end, "error" refuses it.
        cache_bytes: memory for the vectors of texts that were embedded before, 0 for none.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    model: Name = "nomic-embed-text"
    embedding_dims: Size | None = None
    query_prefix: Text | None = None
    document_prefix: Text | None = None
    overflow: Overflow = "split"
    cache_bytes: Count = 16 * 1024 * 1024

    ALIASES: ClassVar[dict[str, str]] = {**ConnectionConfig.ALIASES, "dimensions": "embedding_dims"}


_OWN = ("model", "max_tokens", "think", *ConnectionConfig.__struct_fields__)
_OPTIONS = {
    "max_tokens": "num_predict",
    **{name: name for name in OllamaConfig.__struct_fields__ if name not in _OWN},
}


def _masked(name: str, value: Any) -> Any:
    if name == "ollama_base_url":
        return _CREDENTIALS.sub(rf"\g<1>{_HIDDEN}@", value)
    if name == "headers":
        return dict.fromkeys(value, _HIDDEN)
    return _HIDDEN if name == "api_key" else value
