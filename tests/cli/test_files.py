"""Messages from files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.cli.files import parse_messages, read_text
from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = '{"role":"user","content":"a"}\n\n{"role":"assistant","content":"b","name":"Bot"}\n'


def test_json_lines_are_messages() -> None:
    """Each line is a message; blank lines are passed over."""
    messages, problems = parse_messages(GOOD, name="chat.jsonl")
    assert [(m.role, m.content, m.name) for m in messages] == [("user", "a", None), ("assistant", "b", "Bot")]
    assert problems == []


@pytest.mark.parametrize("text", ["a\nb", "a\r\n\r\nb\r\n", " a \n\t\n b"])
def test_plain_text_is_a_message_a_line(text: str) -> None:
    """Text that is not JSON is taken line by line."""
    assert [m.content for m in parse_messages(text, name="standard input").messages] == ["a", "b"]


def test_standard_input_that_begins_with_a_brace_is_json_lines() -> None:
    """What has no name is judged by its first character; `format` overrules."""
    assert parse_messages(GOOD, name="standard input").messages[0].content == "a"
    assert parse_messages("{not json", name="x", format="text").messages[0].content == "{not json"
    with pytest.raises(ConfigError, match="line 1"):
        parse_messages("hello", name="x", format="jsonl")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("not json", "malformed"),
        ("[1]", "a message is an object"),
        ('{"role":"user"}', "needs its text"),
        ('{"content":" "}', "has no text"),
        ('{"content":"x","timestamp":"soon"}', "not a time"),
    ],
)
def test_a_bad_line_stops_everything_and_is_named(bad: str, reason: str) -> None:
    """The error has the file, the line number and the reason; --skip-bad leaves the line out."""
    text = GOOD + bad + "\n"
    with pytest.raises(ConfigError, match=rf"chat.jsonl, line 4: .*{reason}.*Nothing was stored"):
        parse_messages(text, name="chat.jsonl")
    messages, problems = parse_messages(text, name="chat.jsonl", skip_bad=True)
    assert len(messages) == 2
    assert problems[0].startswith("chat.jsonl, line 4: ")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_file_without_a_message_is_an_error(text: str) -> None:
    """Nothing to add is said, not done."""
    with pytest.raises(ConfigError, match="holds no message"):
        parse_messages(text, name="empty.txt")


def test_unreadable_files_are_clear_errors(tmp_path: Path) -> None:
    """A file that is not there, a folder, and bytes that are not text."""
    binary = tmp_path / "x.bin"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        read_text(str(tmp_path / "nowhere.txt"))
    with pytest.raises(ConfigError, match="cannot read"):
        read_text(str(tmp_path))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_text(str(binary))
