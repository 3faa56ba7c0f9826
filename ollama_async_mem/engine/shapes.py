"""Where a piece of an answer stands in a line: under `message` for a chat, at the top for a generation."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["ChatShape", "GenerateShape", "Shape"]


class Shape(Protocol):
    """How the pieces of an answer are put in lines, and lines joined."""

    def text(self, text: str) -> dict[str, Any]:
        """A line's part for text."""

    def thinking(self, text: str) -> dict[str, Any]:
        """A line's part for thinking."""

    def tool_calls(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """A line's part for tool calls."""

    def joined(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """The parts of all lines as one."""


class ChatShape:
    """The shape of /api/chat."""

    def text(self, text: str) -> dict[str, Any]:
        """A line's part for text."""
        return {"message": {"role": "assistant", "content": text}}

    def thinking(self, text: str) -> dict[str, Any]:
        """A line's part for thinking; `content` is always there."""
        return {"message": {"role": "assistant", "content": "", "thinking": text}}

    def tool_calls(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """A line's part for tool calls."""
        return {"message": {"role": "assistant", "content": "", "tool_calls": calls}}

    def joined(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """The parts of all lines as one message."""
        return {"message": {"role": "assistant", **_joined([line["message"] for line in lines], "content")}}


class GenerateShape:
    """The shape of /api/generate."""

    def text(self, text: str) -> dict[str, Any]:
        """A line's part for text."""
        return {"response": text}

    def thinking(self, text: str) -> dict[str, Any]:
        """A line's part for thinking; `response` is always there."""
        return {"response": "", "thinking": text}

    def tool_calls(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """A line's part for tool calls."""
        return {"response": "", "tool_calls": calls}

    def joined(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """The parts of all lines as one."""
        return _joined(lines, "response")


def _joined(parts: list[dict[str, Any]], text_key: str) -> dict[str, Any]:
    """Texts joined, calls listed; thinking and calls only when there are any."""
    whole: dict[str, Any] = {text_key: "".join(part[text_key] for part in parts)}
    if thinking := "".join(part.get("thinking", "") for part in parts):
        whole["thinking"] = thinking
    if calls := [call for part in parts for call in part.get("tool_calls", ())]:
        whole["tool_calls"] = calls
    return whole
