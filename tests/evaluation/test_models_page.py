"""The models of Table 3: each row has its way, each file merges, and sends what the model's authors send."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from avrt.evaluation.published_results import published_table3
from avrt.evaluation.server_config import load_server_config
from avrt.sample import Sample
from avrt.text.prompts import PromptTemplate, build_messages

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "cli_configs" / "models").glob("*.yaml"))
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
SAMPLE = Sample("q", "Which animal barks?", ("cat", "dog"), 1)


def test_every_row_of_table_3_is_on_the_page() -> None:
    rows, _ = published_table3()
    listed = [line for line in PAGE.splitlines() if line.startswith("| ")]
    for row in rows:
        name, _, size = row.label.rpartition(" ") if row.label[-1] == "B" else (row.label, "", "")
        assert any(line.startswith(f"| {name}") and size in line.split("|")[1] for line in listed), row.label
    assert set(re.findall(r"`(\w+\.yaml)`", PAGE)) == {path.name for path in FILES}


def sent(path: Path) -> tuple[str, str]:
    """System message and text of the question that a file's settings give, through the command's own reading."""
    text = path.read_text(encoding="utf-8")
    complete: Callable[[str], str] = str
    if "evaluate-server" in text:
        config = load_server_config([ROOT / "cli_configs" / "eval_server.yaml", path])
        template, answer_format, system = config.template, config.answer_format, ""
        complete = config.server.resolve_model().complete
    else:
        from lightning_modules import cli

        words = ["--config", str(ROOT / "cli_configs" / "eval.yaml"), "--config", str(path)]
        student: Any = cli.read_settings("test", words).model.init_args.student
        template, answer_format = PromptTemplate(**vars(student.template)), student.answer_format
        system = template.system
    messages = build_messages(SAMPLE, modalities=(), answer_format=answer_format, template=template)
    return system, complete(messages[-1]["content"][-1]["text"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_merges_and_asks_the_question(path: Path) -> None:
    _, text = sent(path)
    assert SAMPLE.question in text
    assert re.search(r"^\(?A[.)] cat$", text, re.MULTILINE)
    assert f"--config cli_configs/models/{path.name}" in path.read_text(encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["output_dir"] == f"runs/{path.stem}"


QWEN = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)


def test_the_prompts_are_the_authors() -> None:
    """Word by word, as their programs build them from this question."""
    folder = ROOT / "cli_configs" / "models"
    assert sent(folder / "qwen2_5_omni_3b.yaml")[0] == QWEN
    assert sent(folder / "avatar.yaml")[0] == QWEN
    assert sent(folder / "avatar.yaml")[1].startswith(
        "Your task is to accurately answer multiple-choice questions based on the given video.\n"
        "Select the single most accurate answer from the given choices.\nQuestion: Which animal barks?\nChoices:\n"
    )
    assert sent(folder / "avatar.yaml")[1].endswith("Don't generate any other text.")
    system, text = sent(folder / "echoink_7b.yaml")
    assert system == ""
    assert text.startswith(
        "Which animal barks?\nA. cat\nB. dog\nPlease think about this question as if you were a human "
    )
    assert "'oh, I see', 'let's break it down', etc, or other natural language thought expressions It's" in text
    assert text.endswith(
        "between the <answer> </answer> tags. Please provide only the single option letter (e.g., A, B, C, D, etc.) "
        "within the <answer> </answer> tags."
    )
    assert sent(folder / "omni_r1_7b.yaml")[0] == "You are a helpful assistant."
    assert sent(folder / "audio_flamingo_3_think.yaml")[1] == (
        "Which animal barks? Choose the correct option from the following options:\n(A) cat\n(B) dog\n"
        "Please think and reason about the input audio before you respond."
    )
    text = sent(folder / "video_rts_7b.yaml")[1]
    assert text.startswith("A conversation between User and Assistant. The user asks a question, and the Assistant ")
    assert "<think> reasoning process here </think><answer> answer here </answer>Which animal barks?\n" in text


def test_the_presets_of_the_files_are_their_models() -> None:
    for name, model, streams in (
        ("audio_flamingo_3_think", "audio-flamingo-3-think", "A"),
        ("kimi_vl_thinking", "moonshotai/Kimi-VL-A3B-Thinking-2506", "V"),
        ("qwen3_omni_30b", "Qwen/Qwen3-Omni-30B-A3B-Instruct", "AV"),
        ("video_rts_7b", "Ted412/Video-RTS", "V"),
    ):
        config = load_server_config([ROOT / "cli_configs" / "eval_server.yaml", FILES[0].with_name(f"{name}.yaml")])
        assert (config.server.resolve_model().name, config.streams) == (model, streams)


def test_a_question_line_needs_the_question() -> None:
    template = PromptTemplate(system="", question_line="Q: {question}\nChoices:", letter_instruction="")
    (message,) = build_messages(SAMPLE, modalities=(), answer_format="letter", template=template)
    assert message["content"][0]["text"] == "Q: Which animal barks?\nChoices:\nA. cat\nB. dog"
    for wrong in ("Choices:", "{question} {letter}"):
        with pytest.raises(ValueError, match="question_line"):
            PromptTemplate(question_line=wrong)
