"""The commands on API keys of the server. They work on the file of keys alone, also while servers run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from ollama_async_mem.cli.options import Json  # noqa: TC001 - cyclopts resolves annotations at run time
from ollama_async_mem.cli.output import note, say, show_json
from ollama_async_mem.config import load_settings
from ollama_async_mem.server.keys import KeyFile, default_key_file

if TYPE_CHECKING:
    from ollama_async_mem.server.keys import Key

__all__ = ["KEYS_HELP", "key_file", "keys"]

KEYS_HELP = "The file of keys. Default: OLLAMA_ASYNC_MEM_KEYS, else one beside the store."
_File = Annotated[str | None, Parameter(name="--keys", help=KEYS_HELP)]
_Store = Annotated[str | None, Parameter(name="--store", help="The store whose keys are meant.")]

keys = App(name="keys", help="The API keys of the server: who may use it from outside, and for whom.")


def key_file(path: str | None, store: str | None) -> KeyFile:
    """Return the file that is named, here or in the settings, or the one that goes with the store."""
    settings = load_settings(store=store)
    return KeyFile(path or settings.server.keys or default_key_file(settings.store))


@keys.command
def create(
    name: str,
    /,
    *,
    user: Annotated[str | None, Parameter(name=["--user", "-u"])] = None,
    agent: str | None = None,
    read_only: Annotated[bool, Parameter(negative="")] = False,
    admin: Annotated[bool, Parameter(negative="")] = False,
    file: _File = None,
    store: _Store = None,
    json: Json = False,
) -> None:
    """Make a key and show it, this once. Programs send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.

    Args:
        name: What you know it by, such as the program or the person that gets it.
        user: Bind it to this user: it reads and writes no memories of anybody else. Default: everybody's.
        agent: Bind it to this agent.
        read_only: It may find and read, and change nothing.
        admin: It may also pull and delete models, and change settings.
    """
    opened = key_file(file, store)
    key, text = opened.create(name, user_id=user, agent_id=agent, may_write=not read_only, admin=admin)
    _show_new(key, text, opened, json=json)


@keys.command(name="list")
def list_(*, file: _File = None, store: _Store = None, json: Json = False) -> None:
    """List the keys, the revoked ones too; what is secret about them is not known to anybody."""
    found = key_file(file, store).read()
    if json:
        show_json({"keys": [_shown(key) for key in found]})
        return
    for key in found:
        say(f"{key.id}  {key.created_at:%Y-%m-%d}  {key.name}  {_rights(key)}", style="dim" if key.revoked_at else "")


@keys.command
def rotate(key_id: str, /, *, file: _File = None, store: _Store = None, json: Json = False) -> None:
    """Replace the secret of a key and show the new one, this once; the old one works no longer.

    Args:
        key_id: The id of the key, see `keys list`.
    """
    opened = key_file(file, store)
    key, text = opened.rotate(key_id)
    _show_new(key, text, opened, json=json)


@keys.command
def revoke(key_id: str, /, *, file: _File = None, store: _Store = None, json: Json = False) -> None:
    """Make a key worthless for good, within a second also on servers that run.

    Args:
        key_id: The id of the key, see `keys list`.
    """
    key = key_file(file, store).revoke(key_id)
    if json:
        show_json(_shown(key))
    else:
        say(f"revoked {key.id}, {key.name}")


def _show_new(key: Key, text: str, file: KeyFile, *, json: bool) -> None:
    if json:
        show_json({**_shown(key), "key": text, "file": str(file.path)})
        return
    say(text)
    note(f"{key.name}: {_rights(key)}. It is shown this once; {file.path} knows its hash alone.")


def _shown(key: Key) -> dict[str, object]:
    return {name: getattr(key, name) for name in key.__struct_fields__ if name != "sha256"}


def _rights(key: Key) -> str:
    """What a key may do, in words."""
    if key.revoked_at:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    whose = [f"{what} {name}" for what, name in (("user", key.user_id), ("agent", key.agent_id)) if name is not None]
    may = "read and write" if key.may_write else "read only"
    return f"{' with '.join(whose) or 'everybody'}, {may}{', admin' if key.admin else ''}"
