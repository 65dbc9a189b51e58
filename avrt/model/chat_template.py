"""The text of a prompt by the student's chat template, which may come from an untrusted checkpoint.

A template is a program: jinja's sandbox keeps it from files, but it can loop without end, or ask for all memory in one
multiplication that no signal interrupts. So it runs in a child process with limits, once per form of message (which
streams a prompt has), with a marker in place of every text. Prompts are then filled in without the template.
"""

from __future__ import annotations

import json
import os
import re
import resource
import secrets
import select
import signal
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn

from transformers.utils.chat_template_utils import render_jinja_template

from avrt.media.media_process import limit_memory

CPU_SECONDS = 5
"""Processor time of a template; published ones take a few milliseconds."""
WAIT_SECONDS = 120.0
"""Time after which a template counts as hung, however busy the machine is."""
MEMORY_BYTES = 2**29
"""Memory of a template, beside that of the process that it is copied from."""
MAX_CHARACTERS = 2**20
"""Longest text around the messages' own."""

_OPENED = re.compile(r"<think>\s*\Z")
"""The end of a prompt behind which a response begins in the middle of its thinking."""

_SPACE = "\v\f"
"""White space that no template writes of its own: where it is missing, the template trims."""
_NONCE = secrets.token_hex(8)
_MARKER = f"{_SPACE}[[text {_NONCE} %d: <&\"'>]]{_SPACE}"
"""In place of a message's text; a template that trims or escapes texts shows by it. A template cannot know it."""
_MARKED = re.compile(rf"({_SPACE})?\[\[text {_NONCE} (\d+): <&\"'>\]\]({_SPACE})?")


def chat_text(processor: Any, messages: Sequence[dict[str, Any]]) -> str:
    """The prompt of some chat messages, with the beginning of the reply.

    Equal to ``processor.apply_chat_template(messages, add_generation_prompt=True)`` for every template that inserts
    texts as they are or trimmed, and does not depend on their content.

    Args:
        processor: a processor with a chat template.
        messages: with ``role``, and ``content`` as a list of parts; see `avrt.text.prompts.build_messages`.

    Raises:
        ValueError: there is no template, or it fails, changes texts, or needs more time or memory than allowed.
    """
    templates = processor.chat_template
    template = templates.get("default") if isinstance(templates, dict) else templates
    if not isinstance(template, str) or not template:
        raise ValueError("the student has no chat template (chat_template.jinja)")
    texts: list[str] = []
    marked = []
    for message in messages:
        parts = []
        for part in message["content"]:
            if part["type"] == "text":
                parts.append({**part, "text": _MARKER % len(texts)})
                texts.append(part["text"])
            else:
                parts.append({"type": part["type"]})
        marked.append({"role": message["role"], "content": parts})
    around = _rendered(template, json.dumps(processor.tokenizer.special_tokens_map), json.dumps(marked))
    if texts and str(len(texts) - 1) not in {found[2] for found in _MARKED.finditer(around)}:
        raise ValueError("the student's chat template drops or changes the question; use the published template")

    def filled(found: re.Match[str]) -> str:
        text = texts[int(found[2])]
        text = text if found[1] else text.lstrip()
        return text if found[3] else text.rstrip()

    return _MARKED.sub(filled, around)


def response_opening(processor: Any) -> str:
    """What the template writes of every response itself: ``<think>`` and white space, or nothing.

    Raises:
        ValueError: see `chat_text`.
    """
    text = chat_text(processor, [{"role": "user", "content": [{"type": "text", "text": "?"}]}])
    found = _OPENED.search(text)
    return found[0] if found else ""


@lru_cache(maxsize=64)
def _rendered(template: str, special_tokens: str, messages: str) -> str:
    """What a template makes of some messages, computed in a child process.

    Args:
        special_tokens, messages: as JSON, so that they can be compared.
    """
    reading, writing = os.pipe()
    child = os.fork()  # not a new interpreter, which would import transformers for seconds
    if child == 0:
        os.close(reading)
        _run(template, json.loads(special_tokens), json.loads(messages), writing)
    os.close(writing)
    end, deadline = os.pidfd_open(child), time.monotonic() + WAIT_SECONDS
    try:
        result = _read(reading, end, deadline)
    finally:
        os.close(reading)
        os.close(end)
        os.kill(child, signal.SIGKILL)  # if it has not ended by itself; it is not waited for yet, so the id is its own
        _, status = os.waitpid(child, 0)
    if result[:1] == b"+":
        return result[1:].decode("utf-8", "surrogatepass")
    if result[:1] == b"-":
        reason = result[1:].decode("utf-8", "replace")
    elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        reason = f"takes more than {CPU_SECONDS} s of processor time"
    elif time.monotonic() > deadline:
        reason = f"does not end within {WAIT_SECONDS:g} s"
    else:
        reason = "ends its process"
    raise ValueError(f"the student's chat template {reason}; use the published template")


def _run(template: str, special_tokens: dict[str, Any], messages: list[Any], writing: int) -> NoReturn:
    """Render in the child process, write the result and end without the parent's exit handlers."""
    try:
        # Ctrl-C and a scheduler's signals reach every process of a job; the parent ends this one itself.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit_memory(MEMORY_BYTES)
        rendered: Any = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, **special_tokens
        )
        text = rendered[0][0]
        result = f"-writes {len(text)} characters" if len(text) > MAX_CHARACTERS else f"+{text}"
    except MemoryError:
        result = f"-needs more than {MEMORY_BYTES >> 20} MB of memory"
    except BaseException as error:  # noqa: BLE001 (a template can raise anything)
        lines = str(error).strip().splitlines()
        result = f"-fails: {lines[0][:200] if lines else type(error).__name__}"
    try:
        data = result.encode("utf-8", "surrogatepass")
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)


def _read(descriptor: int, end: int, deadline: float) -> bytes:
    """All bytes of the child process until it ends, or until the deadline.

    Its end shows in `end`; that of the pipe would not, where another child has inherited the other end.
    """
    parts = []
    while ready := select.select([descriptor, end], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(descriptor, 1 << 16) if descriptor in ready else b""
        if not part:
            break
        parts.append(part)
    return b"".join(parts)
