"""Reading a chat completion, in the dialects of OpenAI-compatible servers.

All servers use ``choices[0].message``. They differ in the rest: the text may be a list of parts, thinking has several
names, finish reasons have many words, and an error may have status 200.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avrt.servers.failures import BadReplyError, ReportedError
from avrt.servers.outcome import Outcome, Status, read_finish_reason

PASSING_REASONS = frozenset({"abort", "aborted", "cancelled", "error"})
"""Words for a reply that the server itself ended (it shuts down, drops a request): the next attempt may succeed."""

_TEXT_KEYS = ("text", "content", "summary", "reasoning")
"""Keys of the text of a part."""


def read_reply(reply: object, max_tokens: int | None = None) -> Outcome:
    """The outcome of a chat completion; the client does not check the server's body.

    Args:
        reply: the decoded body of an answer with status 200.
        max_tokens: the token limit of the call; decides whether a reply without a ``finish_reason`` was cut.

    Returns:
        An outcome with status ``ok``, ``length``, or ``interrupted`` (with the server's message in `error`).

    Raises:
        ReportedError: the body is an error.
        BadReplyError: the body is not a chat completion.
    """
    if not isinstance(reply, dict):
        raise BadReplyError(f"not a chat completion but {_shown(reply)}")
    raise_reported(reply)
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = f"{len(choices)} choices" if isinstance(choices, list) else "no list of choices"
        raise BadReplyError(f"not a chat completion with one choice: it has {count}")
    choice = choices[0]
    raise_reported(choice)
    word, message = choice.get("finish_reason"), choice.get("message")
    if isinstance(word, str) and word.lower() in PASSING_REASONS:
        raise BadReplyError(f"the server ended the reply (finish_reason {word!r})")
    if message is None and word:
        message = {}  # a filter that leaves nothing
    if not isinstance(message, dict):
        raise BadReplyError("a choice without a message")
    text, thinking, refused = _read_content(message.get("content"))
    reasoning = _read_reasoning(message) or thinking
    usage = _read_usage(reply.get("usage"))
    status, finish, error = _read_ending(word, text or "", usage, max_tokens)
    if status is Status.OK and not text:
        refusal = _joined(message.get("refusal")) or refused
        if refusal:
            return Outcome(Status.INTERRUPTED, refusal, reasoning, "refusal", usage, error=f"refusal: {_line(refusal)}")
        if message.get("tool_calls") or message.get("function_call"):
            status, finish, error = Status.INTERRUPTED, "tool_calls", "the reply is a tool call without text"
        elif text is None and not reasoning:
            content = "null" if message.get("content") is None else "a list without text"
            status, error = Status.INTERRUPTED, f"the reply has no text (content is {content})"
    return Outcome(status, text or "", reasoning, finish, usage, error=error)


def _read_ending(word: object, text: str, usage: Mapping[str, int], max_tokens: int | None) -> tuple[Status, str, str]:
    """Status, ``finish_reason`` and error of a reply by the server's word for its end."""
    if word is None or word == "":
        # A complete body ended by itself or by the token limit. A token has at least one byte of text.
        length = usage.get("completion_tokens", len(text.encode("utf-8", "replace")))
        if max_tokens is None or length < max_tokens:
            return Status.OK, "stop", ""
        if "completion_tokens" in usage:
            return Status.LENGTH, "length", ""
        return Status.INTERRUPTED, "", "no finish_reason and no usage: the token limit may have cut the reply"
    if not isinstance(word, str):
        raise BadReplyError(f"finish_reason is {_shown(word)}")
    finish = read_finish_reason(word)
    status = {"stop": Status.OK, "length": Status.LENGTH}.get(finish, Status.INTERRUPTED)
    return status, finish, f"finish_reason {word!r}" if status is Status.INTERRUPTED else ""


def _read_content(content: object) -> tuple[str | None, str, str]:
    """Text (None where there is none), thinking and refusal of a message's ``content``: text, null, or a list of parts.

    A part of another kind (an image, a tool call) has no text. It is no reason to ask again: the same request would get
    the same reply.
    """
    if content is None or isinstance(content, str):
        return content, "", ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise BadReplyError(f"content is {_shown(content)}")
    texts: list[str] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            raise BadReplyError(f"content is a list with {_shown(part)}")
        elif (kind := part.get("type", "text")) in ("thinking", "reasoning"):
            thoughts.append(_joined(next((part[name] for name in ("thinking", *_TEXT_KEYS) if part.get(name)), "")))
        elif kind == "refusal":
            refusals.append(_joined(part.get("refusal") or part.get("text")))
        elif kind in ("text", "output_text"):
            texts.append(_joined(part))
    return "".join(texts) if texts or thoughts else None, "".join(thoughts), "".join(refusals)


def _read_reasoning(message: Mapping[str, Any]) -> str:
    """Thinking that the server has separated from the reply: vLLM's two names, and OpenRouter's."""
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        if text := _joined(message.get(name)):
            return text
    return ""


def _joined(value: object) -> str:
    """The text of a value that is text, an object with text, or a list of either."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_joined, value))
    if isinstance(value, dict):
        return next((_joined(value[name]) for name in _TEXT_KEYS if value.get(name)), "")
    return ""


def _read_usage(counts: object) -> dict[str, int]:
    if not isinstance(counts, dict):
        return {}
    return {
        name: counts[name]
        for name in ("prompt_tokens", "completion_tokens")
        if isinstance(counts.get(name), int) and not isinstance(counts[name], bool) and 0 <= counts[name] <= 2**53
    }


def raise_reported(body: Mapping[str, Any]) -> None:
    """Raise the error that a body with status 200 reports."""
    error = body.get("error")
    if not error and body.get("object") == "error":
        error = body  # vLLM's older form
    if not error:
        return
    if isinstance(error, dict):
        code = error.get("code")
        status = int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdigit()) else None
        raise ReportedError(_line(error.get("message") or error), status)
    raise ReportedError(_line(error), None)


def _shown(value: object) -> str:
    """A value's type and beginning, for an error message."""
    if isinstance(value, str):
        return f"text that begins {_line(value)[:80]!r}"
    return f"{type(value).__name__} {_line(value)[:80]}"


def _line(value: object) -> str:
    return " ".join(str(value).split())[:500]
