"""Settings: what is allowed, what is said of the rest, and where they come from."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import platformdirs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ollama_async_mem import EmbedderConfig, OllamaConfig, Settings, load_config, load_settings
from ollama_async_mem.app import _behaviour
from ollama_async_mem.config import MemoryConfig, ServerConfig, WeightsConfig, data_folder, default_store
from ollama_async_mem.errors import ConfigError, MissingExtra
from ollama_async_mem.memory.behaviour import Behaviour
from ollama_async_mem.memory.service import MemoryService
from ollama_async_mem.memory.weights import RankingWeights
from ollama_async_mem.ollama._options import _AT_LEAST, _WITHIN, checked_options
from ollama_async_mem.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = {"temperature": 0.1, "num_predict": 2000, "top_p": 0.1, "top_k": 1}
MOST = 2**53
LONGEST_S = 2**31 - 1
FINITE = sys.float_info.max
REALS = {
    "temperature": (0, FINITE),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "presence_penalty": (-FINITE, FINITE),
    "frequency_penalty": (-FINITE, FINITE),
    "repeat_penalty": (0, FINITE),
    "timeout": (5e-324, LONGEST_S),
    "keep_alive": (-LONGEST_S, LONGEST_S),
}
INTEGERS = {
    "top_k": (0, MOST),
    "num_ctx": (1, MOST),
    "num_batch": (1, MOST),
    "num_keep": (-1, MOST),
    "num_gpu": (-1, MOST),
    "repeat_last_n": (-1, MOST),
    "main_gpu": (0, MOST),
    "num_thread": (0, MOST),
    "max_tokens": (-2, MOST),
}
NUMBERS = st.integers(-4, 4) | st.integers() | st.floats(-4, 4) | st.floats()
YAML = """
llm:
  provider: ollama
  config: {model: 'llama2', temperature: 0.5, top_p: 1, stream: true, base_url: 'http://localhost:11434'}
embedder:
  provider: ollama
  config:
    model: 'mxbai-embed-large:latest'
store: sqlite:///notes.db
"""


def made(field: str, value: Any) -> OllamaConfig:
    """A configuration with one value set."""
    return OllamaConfig(**{field: value})


def test_the_defaults_are_those_of_mem0() -> None:
    """`OllamaConfig()` alone is what its users know, and its options have the server's names."""
    assert OllamaConfig().model == "llama3.1:70b"
    assert OllamaConfig().options == SEED
    assert EmbedderConfig().model == "nomic-embed-text"
    bare = OllamaConfig(temperature=None, max_tokens=None, top_p=None, top_k=None)
    assert bare.options == {}


def test_every_option_of_the_server_can_be_set() -> None:
    """All that api/types.go lists goes out under its own name; what is no option does not."""
    given: dict[str, Any] = {
        "num_ctx": 8192,
        "num_batch": 64,
        "num_gpu": -1,
        "main_gpu": 0,
        "use_mmap": False,
        "num_thread": 2,
    }
    given |= {"draft_num_predict": 0, "num_keep": 4, "seed": 7, "min_p": 0.1, "typical_p": 1.0, "repeat_last_n": 64}
    given |= {"repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "stop": ["END"]}
    config = OllamaConfig(**given, think="low", keep_alive="5m", timeout=9, api_key="k")
    assert config.options == {**SEED, **given}


@given(st.sampled_from(sorted(REALS)), NUMBERS)
def test_a_number_is_taken_exactly_where_it_can_be(field: str, value: float) -> None:
    """Numbers within the range are taken as they are; others, infinity and NaN are errors that name the field."""
    low, high = REALS[field]
    if low <= value <= high:
        assert getattr(made(field, value), field) == value
    else:
        with pytest.raises(ConfigError, match=f"^{field} cannot be .*; allowed is a number"):
            made(field, value)


@given(st.sampled_from(sorted(INTEGERS)), NUMBERS)
def test_an_integer_is_taken_exactly_where_it_can_be(field: str, value: float) -> None:
    """The same for integers, where a float is refused: the server would cut it without a word."""
    low, high = INTEGERS[field]
    if isinstance(value, int) and low <= value <= high and (field, value) != ("max_tokens", 0):
        assert getattr(made(field, value), field) == value
    else:
        with pytest.raises(ConfigError, match=f"^{field} cannot be .*; allowed is an integer from "):
            made(field, value)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("model", " ", "a text that is not blank"),
        ("model", None, "a text that is not blank"),
        ("temperature", "hot", "a number from 0"),
        ("temperature", True, "a number from 0"),
        ("top_k", "1", "an integer from 0"),
        ("stop", [1], "a list of texts, or a text"),
        ("think", "much", "true, false, 'low', 'medium', 'high' or 'max'"),
        ("keep_alive", "300", "a number of seconds, below 0 for ever, or a text such as '5m'"),
        ("headers", {"a": 1}, "a mapping of texts to texts"),
        ("use_mmap", "yes", "true or false"),
        ("max_tokens", 0, "an integer from 1, -1 or -2"),
    ],
)
def test_wrong_values_are_named(field: str, value: Any, allowed: str) -> None:
    """An error names the field and what is allowed, and shows the value unless it is a secret."""
    with pytest.raises(ConfigError) as caught:
        made(field, value)
    assert str(caught.value).startswith(f"{field} cannot be {'this secret' if field == 'headers' else repr(value)}")
    assert allowed in str(caught.value)


@pytest.mark.parametrize("value", ["5m", "1h30m", "-1s", "0", "1.5s", ".5s", 300, -1, 0.5])
def test_go_durations_and_seconds_are_taken(value: Any) -> None:
    """`keep_alive` is what the server takes."""
    assert OllamaConfig(keep_alive=value).keep_alive == value


def test_a_stop_text_becomes_a_list() -> None:
    """The server answers 500 to a bare text, so it is wrapped."""
    assert OllamaConfig(stop="END").options["stop"] == ["END"]


def test_secrets_are_not_shown() -> None:
    """Neither `repr` nor an error shows keys, header values or passwords; fields that are not set are left out."""
    config = OllamaConfig(api_key="s3cret", headers={"x-a": "s3cret"}, ollama_base_url="http://me:s3cret@box:1")
    settings = Settings(store="m.db", llm=config, embedder=EmbedderConfig())
    for text in (repr(config), repr(settings), repr(config.__rich_repr__())):
        assert "s3cret" not in text
        assert "//***@box:1" in text
    assert "num_ctx" not in repr(config)
    assert msgspec.structs.asdict(config)["api_key"] == "s3cret"


@pytest.mark.parametrize("address", ["me:s3cret@box:1", "http://me:s3@s3cret@box:1", "http://me:s3cret/s3@box:1"])
def test_a_password_is_hidden_wherever_it_may_stand(address: str) -> None:
    """Also without a scheme, and with characters in it that should have been quoted."""
    shown = repr(OllamaConfig(ollama_base_url=address))
    assert "s3" not in shown
    assert "***@box:1" in shown


@given(st.sampled_from(sorted(set(OllamaConfig().options) | {*_AT_LEAST, *_WITHIN})), NUMBERS)
def test_an_option_is_taken_here_where_it_is_taken_there(option: str, value: float) -> None:
    """What `options=` of a request accepts the configuration does too, and no more; but 0 tokens mean no limit."""
    field = "max_tokens" if option == "num_predict" else option

    def is_taken(make: Callable[[], object]) -> bool:
        try:
            make()
        except ConfigError:
            return False
        return True

    assume((option, value) != ("num_predict", 0))
    assert is_taken(lambda: made(field, value)) == is_taken(lambda: checked_options({option: value}))


def test_a_mapping_has_the_names_of_the_seed() -> None:
    """`base_url` is another name, `stream` says nothing, and a name alone is a model."""
    config = OllamaConfig.from_mapping({"model": "m", "base_url": "http://box:1", "stream": True})
    assert (config.model, config.ollama_base_url, config.temperature) == ("m", "http://box:1", 0.1)
    assert EmbedderConfig.from_mapping({"dimensions": 256}).embedding_dims == 256
    assert OllamaConfig.of("m") == OllamaConfig(model="m")
    assert OllamaConfig.of(config) is config
    assert OllamaConfig.of(None) == OllamaConfig()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"temprature": 1}, "unknown key 'temprature', did you mean 'temperature'?"),
        ({"num_predict": 1}, "unknown key 'num_predict': it is called 'max_tokens' here"),
        ({"stream": "yes"}, "unknown key 'stream'; known are ollama_base_url, "),
        ({1: 2}, "unknown key '1'; known are "),
        ({"base_url": "a", "ollama_base_url": "b"}, "base_url is given twice, also as 'ollama_base_url'"),
        ({"base_url": "a", "host": "b"}, "base_url is given twice, also as 'host'"),
        ({"temperature": -3}, "temperature cannot be -3; allowed is a number from 0"),
        ([], "OllamaConfig is a mapping of keys to values, got []"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_said(mapping: Any, message: str) -> None:
    """An unknown key names the nearest known one, or what to use in its place."""
    with pytest.raises(ConfigError) as caught:
        OllamaConfig.from_mapping(mapping)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"llm": {"config": {"temprature": 1}}}, "unknown key 'llm.config.temprature', did you mean 'temperature'?"),
        ({"llm": {"config": {"top_p": 7}}}, "llm.config.top_p cannot be 7; allowed is a number from 0 to 1"),
        ({"llm": {"model": "m"}}, "unknown key 'llm.model': it belongs under 'llm.config'"),
        ({"llm": {"provider": "openai"}}, "llm.provider cannot be 'openai'; allowed is ollama"),
        ({"llm": {"config": [1]}}, "llm.config is a mapping of keys to values, got [1]"),
        ({"llm": 5}, "llm is a mapping of keys to values, got 5"),
        ({"llm": " "}, "llm.model cannot be ' '; allowed is a text that is not blank"),
        ({"embeder": {}}, "unknown key 'embeder', did you mean 'embedder'?"),
        ({"store": 5}, "store cannot be 5; allowed is a text that is not blank"),
        ({"vector_store": {}}, "unknown key 'vector_store': name the one file of all memories by 'store'"),
        ({"custom_instructions": "x"}, "unknown key 'custom_instructions': they are 'prompt' under 'memory' here"),
        ({"memory": 5}, "memory is a mapping of keys to values, got 5"),
        ({"memory": {"idle": 1}}, "unknown key 'memory.idle', did you mean 'idle_s'?"),
        ({"memory": {"idle_s": -1}}, "memory.idle_s cannot be -1; allowed is a number of seconds from 0"),
        ({"memory": {"concurrency": 0}}, "memory.concurrency cannot be 0; allowed is an integer from 1"),
        ({"memory": {"extract": "no"}}, "memory.extract cannot be 'no'; allowed is true or false"),
        ({"memory": {"prompt": " "}}, "memory.prompt cannot be ' '; allowed is a text that is not blank"),
        ({"memory": {"same_within": "1h"}}, "memory.same_within cannot be '1h'; allowed is a number of seconds from 0"),
        ({"memory": {"weights": 0}}, "memory.weights is a mapping of keys to values, got 0"),
        ({"memory": {"weights": {"word": 1}}}, "unknown key 'memory.weights.word', did you mean 'words'?"),
        ({"memory": {"weights": {"dense": -1}}}, "memory.weights.dense cannot be -1; allowed is a number from 0"),
        ({"memory": {"weights": {"half_life_days": 0}}}, "memory.weights.half_life_days cannot be 0; allowed is a "),
        (None, "settings are a mapping or the path of a file, got None"),
    ],
)
def test_what_is_wrong_with_settings_is_said(settings: Any, message: str) -> None:
    """At any depth the dotted path is named; keys of Mem0 say what takes their place."""
    with pytest.raises(ConfigError) as caught:
        load_config(settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["settings.yaml", "settings.yml", "settings", "settings.json"])
def test_files_are_read_by_their_suffix(name: str, tmp_path: Path) -> None:
    """YAML and JSON say the same, and what was read can be given on as a mapping."""
    path = tmp_path / name
    content = {"llm": "qwen3", "embedder": None, "store": "a.db"}
    path.write_text(json.dumps(content) if name.endswith("json") else "llm: qwen3\nembedder:\nstore: a.db\n")
    assert load_config(path) == content
    assert load_settings({}, config=load_config(path)).llm.model == "qwen3"


def test_the_settings_of_the_seed_are_read(tmp_path: Path) -> None:
    """Its file means what it says; what it does not say is the default of this library, not of the class."""
    path = tmp_path / "ollama.yaml"
    path.write_text(YAML)
    settings = load_settings({}, config=path)
    assert settings.llm.options == {"temperature": 0.5, "top_p": 1, "num_predict": 2000}
    assert (settings.llm.model, settings.llm.ollama_base_url) == ("llama2", "http://localhost:11434")
    assert (settings.embedder.model, settings.embedder.ollama_base_url) == ("mxbai-embed-large:latest", None)
    assert settings.store == "sqlite:///notes.db"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"llm: [1\nstore: x", "cannot be read as yaml: .*line 2, column"),
        ("a.json", b'{"llm": 1,\n "store": }', "cannot be read as json: .*line 2 column"),
        ("a.yaml", b"\xff\xfe\x00", "cannot be read as yaml: "),
        ("a.yaml", b"- 1", r"the content of .*a.yaml is a mapping of keys to values, got \[1\]"),
        ("a.yaml", b"a: !!python/object/apply:os.abort []", "cannot be read as yaml: "),
        ("a.yaml", b"#" * 65_537, "larger than 65,536 bytes"),
        ("a.yaml", b"[" * 60_000, "cannot be read as yaml: "),
        ("a.yaml", b"llm: {config: {top_k: x}}", "a.yaml: llm.config.top_k cannot be 'x'"),
        ("a.yaml", b"lm: m", "a.yaml: unknown key 'lm', did you mean 'llm'"),
    ],
)
def test_a_bad_file_says_where(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """Whatever is wrong with a file, the error names the file, and line and column where they are known."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("line", ["api_key: 's3cret", "api_key: *s3cret", "api_key: !s3cret x", "api_key: s3cret: x"])
def test_a_bad_file_does_not_show_its_secrets(line: str, tmp_path: Path) -> None:
    """The error and all that it comes from say where, and not what stands there."""
    path = tmp_path / "a.yaml"
    path.write_text(f"llm:\n  config:\n    {line}\n")
    with pytest.raises(ConfigError, match=r"at line \d, column \d+$") as caught:
        load_config(path)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there, or a folder, is an error with its path and the reason."""
    with pytest.raises(ConfigError, match=r"none.yaml: No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="null"):
        load_config("a\0b")


def test_yaml_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON needs no package; YAML names the extra."""
    (tmp_path / "a.yaml").write_text("store: x")
    (tmp_path / "a.json").write_text('{"store": "x"}')
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert load_config(tmp_path / "a.json") == {"store": "x"}
    with pytest.raises(MissingExtra, match=r"ollama-async-mem\[yaml\]"):
        load_config(tmp_path / "a.yaml")


def test_later_sources_win() -> None:
    """Defaults < file < environment < arguments; None and blank variables are passed over; each origin is known."""
    environment = {"OLLAMA_ASYNC_MEM_LLM": "qwen3", "OLLAMA_ASYNC_MEM_EMBEDDER": "  ", "OLLAMA_ASYNC_MEM_STORE": "env"}
    config = {"llm": {"config": {"model": "file", "seed": 1}}, "embedder": "file", "store": "file"}
    settings = load_settings(environment, config=config, store="mine", llm=None)
    assert (settings.llm.model, settings.llm.options["seed"]) == ("qwen3", 1)
    assert (settings.embedder.model, settings.store) == ("file", "mine")
    origins = settings.origins
    assert (origins["llm.model"], origins["llm.seed"]) == ("OLLAMA_ASYNC_MEM_LLM", "mapping")
    assert (origins["store"], origins["llm.temperature"]) == ("argument", "default")
    assert load_settings({}).llm == OllamaConfig(model="llama3.2", temperature=None, top_p=None, top_k=None)
    assert load_settings({}).store == default_store({})


def test_which_server_is_asked(tmp_path: Path) -> None:
    """A model's own address wins over the `host` beside it, OLLAMA_HOST over both, and an argument over all."""
    own = {"llm": {"config": {"base_url": "llm:1"}}, "host": "file:1"}

    def servers(environment: dict[str, str], **arguments: Any) -> tuple[str | None, str | None]:
        settings = load_settings(environment, **arguments)
        return settings.llm.ollama_base_url, settings.embedder.ollama_base_url

    assert servers({}) == (None, None)
    assert servers({"OLLAMA_HOST": " env:1 "}) == ("env:1", "env:1")
    assert servers({}, config=own) == ("llm:1", "file:1")
    assert servers({"OLLAMA_HOST": "env:1"}, config=own) == ("env:1", "env:1")
    assert servers({"OLLAMA_HOST": "env:1"}, config=own, host="mine:1") == ("mine:1", "mine:1")
    assert load_settings({"OLLAMA_HOST": "env:1"}, config=own).origins["llm.ollama_base_url"] == "OLLAMA_HOST"
    assert load_settings({"OLLAMA_HOST": " "}, config=own).origins["llm.ollama_base_url"] == "mapping"


def test_a_variable_names_the_file(tmp_path: Path) -> None:
    """OLLAMA_ASYNC_MEM_CONFIG is read unless a file or mapping is given; blank is unset."""
    path = tmp_path / "a.json"
    path.write_text('{"llm": "qwen3"}')
    assert load_settings({"OLLAMA_ASYNC_MEM_CONFIG": str(path)}).origins["llm.model"] == str(path)
    assert load_settings({"OLLAMA_ASYNC_MEM_CONFIG": str(path)}, config={}).llm.model == "llama3.2"
    assert load_settings({"OLLAMA_ASYNC_MEM_CONFIG": "  "}).llm.model == "llama3.2"


def test_how_a_memory_works_can_be_set() -> None:
    """By file and by variables, which win; each weight comes from where it was set last."""
    said = {"prompt": "Food only.", "extract_here": False, "weights": {"recency": 0.5, "words": 2}}
    environment = {
        "OLLAMA_ASYNC_MEM_IDLE_S": "2.5",
        "OLLAMA_ASYNC_MEM_CONCURRENCY": "3",
        "OLLAMA_ASYNC_MEM_EXTRACT": "true",
        "OLLAMA_ASYNC_MEM_SAME_WITHIN": " ",
        "OLLAMA_ASYNC_MEM_WEIGHTS": '{"recency": 1}',
    }
    settings = load_settings(environment, config={"memory": said})
    weights = WeightsConfig(recency=1, words=2)
    assert settings.memory == MemoryConfig(prompt="Food only.", idle_s=2.5, concurrency=3, weights=weights)
    origins = {name: origin for name, origin in settings.origins.items() if name.startswith("memory.")}
    assert origins == {
        "memory.prompt": "mapping",
        "memory.extract": "OLLAMA_ASYNC_MEM_EXTRACT",
        "memory.idle_s": "OLLAMA_ASYNC_MEM_IDLE_S",
        "memory.concurrency": "OLLAMA_ASYNC_MEM_CONCURRENCY",
        "memory.weights.recency": "OLLAMA_ASYNC_MEM_WEIGHTS",
        "memory.weights.words": "mapping",
    }
    assert load_settings({}, config={"memory": None}).memory == MemoryConfig()


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("IDLE_S", "soon", "OLLAMA_ASYNC_MEM_IDLE_S cannot be 'soon'; allowed is a number of seconds from 0"),
        ("CONCURRENCY", "0", "OLLAMA_ASYNC_MEM_CONCURRENCY cannot be '0'; allowed is an integer from 1"),
        ("EXTRACT", "perhaps", "OLLAMA_ASYNC_MEM_EXTRACT cannot be 'perhaps'; allowed is true or false"),
        ("WEIGHTS", "much", "OLLAMA_ASYNC_MEM_WEIGHTS cannot be 'much'; allowed is a JSON object, such as "),
        ("WEIGHTS", '{"words": "x"}', "OLLAMA_ASYNC_MEM_WEIGHTS: words cannot be 'x'; allowed is a number from 0"),
        ("WEIGHTS", '{"word": 1}', "OLLAMA_ASYNC_MEM_WEIGHTS: unknown key 'word', did you mean 'words'?"),
    ],
)
def test_what_is_wrong_with_a_variable_is_said(variable: str, text: str, message: str) -> None:
    """It is named, with what is allowed."""
    with pytest.raises(ConfigError) as caught:
        load_settings({f"OLLAMA_ASYNC_MEM_{variable}": text})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("HOST", "0.0.0.0", {"host": "0.0.0.0"}),
        ("PORT", "0", {"port": 0}),
        ("PAGE", "false", {"page": False}),
        ("HEAD_S", "2.5", {"head_s": 2.5}),
        ("ALLOW_HOST", "a.example.org, b.example.org c", {"allow_host": ("a.example.org", "b.example.org", "c")}),
        ("ALLOW_ORIGIN", "http://a", {"allow_origin": ("http://a",)}),
    ],
)
def test_the_server_can_be_told_by_variables(variable: str, text: str, value: dict[str, Any]) -> None:
    """Each setting has one, and lists have blanks or commas between their texts."""
    variable = f"OLLAMA_ASYNC_MEM_SERVER_{variable}"
    settings = load_settings({variable: text}, config={"server": {"port": 7, "body_s": 1}})
    assert settings.server.given == {"port": 7, "body_s": 1} | value
    assert settings.origins[f"server.{next(iter(value))}"] == variable
    assert load_settings({"OLLAMA_ASYNC_MEM_KEYS": "k"}).server.keys == "k"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"port": 65536}, "server.port cannot be 65536; allowed is an integer from 0 to 65535"),
        ({"allow_host": "a"}, "server.allow_host cannot be 'a'; allowed is a list of texts"),
        ({"prt": 1}, "unknown key 'server.prt', did you mean 'port'?"),
        ({"ollama": "x"}, "unknown key 'server.ollama': the Ollama server is 'host' beside 'server'"),
        ([], "server is a mapping"),
    ],
)
def test_what_is_wrong_with_the_server_is_said(section: Any, message: str) -> None:
    """With what is allowed."""
    with pytest.raises(ConfigError) as caught:
        load_settings({}, config={"server": section})
    assert str(caught.value).startswith(message)
    with pytest.raises(ConfigError, match="OLLAMA_ASYNC_MEM_SERVER_PORT cannot be 'x'"):
        load_settings({"OLLAMA_ASYNC_MEM_SERVER_PORT": "x"})


def test_the_settings_of_the_server_are_those_of_its_class() -> None:
    """Each can stand in the file, besides the two files that the command opens."""
    assert ServerConfig.__struct_fields__ == (*ServerSettings.__struct_fields__, "keys", "audit_log")


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    """With the key in it."""
    path = tmp_path / "a.json"
    path.write_text('{"memory": {"idle_s": -1}}')
    with pytest.raises(ConfigError, match=re.escape(f"{path}: memory.idle_s cannot be -1")):
        load_settings({}, config=path)


def test_the_settings_of_a_memory_are_its_arguments() -> None:
    """Names and defaults are those of the classes that take them."""
    assert WeightsConfig.__struct_fields__ == RankingWeights.__struct_fields__
    defaults = {name: value.default for name, value in inspect.signature(MemoryService.__init__).parameters.items()}
    ours = _behaviour(MemoryConfig())
    assert set(ours) == set(Behaviour.__annotations__) - {"reranker"}  # an object, which no file can name
    assert ours == {name: defaults[name] for name in ours}


@pytest.mark.parametrize("arguments", [{"llm": " "}, {"store": ""}, {"modell": "x"}])
def test_wrong_arguments_are_named(arguments: dict[str, str]) -> None:
    """A blank or unknown setting is an error that names it."""
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        load_settings({}, **arguments)


def test_the_data_folder_is_the_custom_of_the_system() -> None:
    """It is the one that platformdirs knows, without needing platformdirs."""
    ours = data_folder({k: v for k, v in os.environ.items() if k.startswith("XDG") or k == "LOCALAPPDATA"})
    assert ours == Path(platformdirs.user_data_dir("ollama-async-mem", appauthor=False))
