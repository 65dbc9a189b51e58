"""Chat rows as LLaMA-Factory and ms-swift read them: a question and its answer as turns, media as lists of paths.

``{"messages": [{"role": "user", "content": "<video>What is heard?\\nA. dog\\nB. cat"}, {"role": "assistant",
"content": "B"}], "videos": ["c1.mp4"]}``, or ``conversations`` with ``from`` and ``value``.
"""

from __future__ import annotations

import re
from typing import Any

from avrt.data.annotations.choices import split_question
from avrt.data.annotations.rows import RowError, RowReason

Row = dict[str, Any]

_USER, _ASSISTANT = ("user", "human"), ("assistant", "gpt")
_TAG = re.compile(r"\s*<(?:video|audio|image)>\s*")


def from_conversation(row: Row) -> Row:
    """A row with plain keys; the answer is the assistant's only turn, or ``solution``, or ``answer``.

    Raises:
        RowError: ``open_ended``: a question without labeled options; or not exactly one question.
    """
    turns = row.get("messages", row.get("conversations"))
    said: dict[str, list[str]] = {"user": [], "assistant": []}
    for turn in turns if isinstance(turns, list) else ():
        role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
        text = _text(turn.get("content", turn.get("value"))) if isinstance(turn, dict) else None
        if text is None:
            raise RowError(RowReason.BAD_QUESTION, f"a turn of the conversation has no text: {turn!r}")
        if role in _USER or role in _ASSISTANT:
            said["user" if role in _USER else "assistant"].append(text)
    if len(said["user"]) != 1 or len(said["assistant"]) > 1:
        raise RowError(
            RowReason.BAD_QUESTION,
            f"needs one question and its answer, has {len(said['user'])} turns of the user and "
            f"{len(said['assistant'])} of the assistant",
        )
    question = _TAG.sub("\n", said["user"][0]).strip()
    options = row.get("options") or row.get("choices")
    if not options and split_question(question) is None:
        raise RowError(RowReason.OPEN_ENDED, "a question without options such as lines 'A. dog'")
    reply = said["assistant"][0].strip() if said["assistant"] else None
    answer = reply or row.get("solution") or row.get("answer")
    if answer is None:
        raise RowError(RowReason.BAD_ANSWER, "there is no turn of the assistant and no `solution`")
    consumed = {"messages", "conversations", "options", "choices", "id", "solution", "answer"}
    media = {kind: row.get(f"{kind}s") or row.get(kind) for kind in ("video", "audio", "image")}
    consumed |= {name for kind in media for name in (kind, f"{kind}s")}
    return {
        "id": row.get("id"),
        "question": question,
        "options": options,
        "answer": answer,
        "reasoning": reply if reply and "<think>" in reply else None,
        "extra": {name: value for name, value in row.items() if name not in consumed},
        **media,
    }


def _text(content: Any) -> str | None:
    """The text of a turn; of parts, the text parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None
