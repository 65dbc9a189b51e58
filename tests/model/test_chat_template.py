"""Chat templates of untrusted checkpoints: the same text as transformers', within set time and memory."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avrt.model import chat_template
from avrt.model.chat_template import chat_text
from avrt.model.student import Student, StudentConfig
from avrt.sample import Sample
from avrt.text.prompts import build_messages

TEXTS = (
    "What is heard?",
    " spaces\n\n ",
    "[[text 0: <&\"'>]]",
    "{{ 7 * 7 }} {% raw %} <b> &amp; 'q' \\n",
    "é 漢 \U0001f600",
    "",
)
PLAIN = "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{{ p.text or p.type }}{% endfor %};{% endfor %}"


def processor(template: Any) -> Any:
    return SimpleNamespace(chat_template=template, tokenizer=SimpleNamespace(special_tokens_map={"eos_token": "<e>"}))


def question(text: str = "?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


@pytest.mark.parametrize("system", ["", "You answer."])
def test_equal_to_transformers(student32: Student, system: str) -> None:
    for streams in ((), ("video",), ("image",), ("audio",), ("video", "audio"), ("image", "audio")):
        for text, option in itertools.product(TEXTS, TEXTS[:4]):
            sample = Sample("s", text, (option, "b"), 0)
            messages = build_messages(sample, modalities=streams, system_prompt=system)
            expected = student32.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert chat_text(student32.processor, messages) == expected


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (PLAIN, "user: a b ;"),
        (PLAIN.replace("p.text", "p.text | trim"), "user:a b;"),
        ({"default": PLAIN, "other": "x"}, "user: a b ;"),
        ("{{ messages[0].content[0].text }}{{ messages[0].content[0].text }}{{ eos_token }}", " a b  a b <e>"),
        (
            "{% for m in messages %}{{ m.content[0].text }}{% endfor %}{% if add_generation_prompt %}!{% endif %}",
            " a b !",
        ),
    ],
)
def test_other_templates(template: Any, text: str) -> None:
    assert chat_text(processor(template), question(" a b ")) == text


LOOP = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
BOMBS = {
    "a loop of ten thousand million": (LOOP, "processor time"),
    "a loop that writes": (LOOP.replace("{% endfor %}", "{{ '' }}{% endfor %}", 1), "processor time|memory"),
    "one power": ("{% set x = 10 ** (10 ** 9) %}", "processor time|memory"),
    "one multiplication": ("{{ 'x' * 10 ** 10 }}", "MB of memory"),
    "doubling": (
        "{% set n = namespace(x='xx') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "memory",
    ),
    "a long text": ("{{ 'x' * 10 ** 7 }}", "10000000 characters"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "deep nesting": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion|nested|memory"),
    "escape": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "its own error": ("{{ raise_exception('no\nsystem message') }}", "fails: no"),
    "a type error": ("{{ 1 + 'a' }}", "fails: unsupported"),
    "a syntax error": ("{% for m in messages %}", "fails: Unexpected end"),
    "a dropped question": ("hello", "drops or changes"),
    "an escaped question": ("{{ messages[0].content[0].text | e }}", "drops or changes"),
    "none": (None, "no chat template"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_line_within_its_limits(name: str) -> None:
    template, says = BOMBS[name]
    begin = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"^the student(?:'s chat template| has).*(?:{says})") as caught:
        chat_text(processor(template), question())
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KB in this process"


@pytest.mark.timeout(120)
def test_a_loop_that_only_some_questions_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """No question reaches the template, so none can start it."""
    template = (
        "{% if 'x' in messages[0].content[0].text and 'yz' in messages[0].content[0].text %}"
        + LOOP
        + "{% endif %}"
        + PLAIN
    )
    assert chat_text(processor(template), question("xyz")) == "user:xyz;"


def test_a_template_runs_once_for_each_form_of_message(monkeypatch: pytest.MonkeyPatch) -> None:
    forks = []
    fork = chat_template.os.fork
    monkeypatch.setattr(chat_template.os, "fork", lambda: forks.append(1) or fork())
    template = PLAIN + "{# once #}"
    for text in TEXTS:
        chat_text(processor(template), question(text))
    assert len(forks) == 1


def test_a_pipe_that_another_child_inherits() -> None:
    """A process that is forked meanwhile, say a data worker, holds the pipe open."""

    def work(number: int) -> None:
        for repeat in range(5):
            found.append(chat_text(processor(f"{number} {repeat}" + PLAIN), question()))

    found: list[str] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 40
    assert time.monotonic() - begin < 60


@pytest.mark.timeout(120)
def test_a_student_with_an_endless_template_is_refused(student_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(student_folder, tmp_path / "student")
    (folder / "chat_template.jinja").write_text(LOOP)
    with pytest.raises(ValueError, match=r"^student\.path: [^\n]*chat template takes more than 5 s[^\n]*$"):
        Student.load(StudentConfig(path=str(folder), dtype="float32"))


def test_a_template_that_writes_what_looks_like_a_marker() -> None:
    """It cannot know the marker, and its own white space around a text stays."""
    template = "[[text 7: <&\"'>]] \n{{ messages[0].content[0].text | trim }} \n[[text 99999: <&\"'>]]"
    assert chat_text(processor(template), question(" ? ")) == "[[text 7: <&\"'>]] \n? \n[[text 99999: <&\"'>]]"


def test_a_template_of_another_type() -> None:
    with pytest.raises(ValueError, match="no chat template"):
        chat_text(processor([PLAIN]), question())


def test_a_scheduler_may_signal_every_process_of_a_job() -> None:
    """The run decides when to end: a child that the signal reached would end it without a checkpoint."""
    loop = "{% for i in range(12000) %}{% for j in range(400) %}{% set x = i * j %}{% endfor %}{% endfor %}"
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before, sent = set(children.read_text().split()), []

    def send() -> None:
        while not (new := set(children.read_text().split()) - before):
            time.sleep(0.01)
        time.sleep(0.2)  # the child has begun to render
        for pid in new:
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                os.kill(int(pid), number)
                sent.append(number)

    sender = threading.Thread(target=send)
    sender.start()
    text = chat_text(processor(loop + PLAIN), question())
    sender.join()
    assert (text, len(sent)) == ("user:?;", 3)
