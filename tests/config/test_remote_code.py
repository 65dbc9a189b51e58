"""Code that comes with a model folder is never run, and nobody is asked whether it should be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from avrt.model.encoder_attention import ENCODER_ATTENTION_NAME
from avrt.model.student import Student, StudentConfig
from avrt.traces.statistics import token_counter
from tests.programs import REPOSITORY, TIMEOUT, environment

ENTRIES = {
    "config.json": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"},
    "tokenizer_config.json": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    "processor_config.json": {"AutoProcessor": "evil.Evil"},
    "preprocessor_config.json": {"AutoImageProcessor": "evil.Evil", "AutoFeatureExtractor": "evil.Evil"},
    "video_preprocessor_config.json": {"AutoVideoProcessor": "evil.Evil"},
}


def poison(source: Path, folder: Path, name: str, **changes: Any) -> Path:
    """A copy whose file `name` sends readers to Python code that leaves a file behind."""
    shutil.copytree(source, folder)
    ran = folder.parent / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil:\n    pass\n")
    file = folder / name
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | {"auto_map": ENTRIES[name]} | changes))
    return folder


@pytest.mark.parametrize("name", ENTRIES)
def test_a_student_with_code_is_refused(
    layout_folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"tokenizer_class": "Evil", "processor_class": "Evil"} if name == "tokenizer_config.json" else {}
    folder = poison(layout_folder, tmp_path / "student", name, **changes)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(ValueError, match=rf"student\.path.*{name}.*auto_map"):
        Student.load(StudentConfig(path=str(folder), dtype="float32"))
    assert not (tmp_path / "ran").exists()


def test_nothing_runs_even_where_the_first_look_misses_it(
    student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a repository of the hub, whose files are not there before transformers reads them."""
    folder = poison(student_folder, tmp_path / "student", "tokenizer_config.json", tokenizer_class="Evil")
    monkeypatch.setattr("avrt.model.loading.check_no_remote_code", lambda *_: None)
    monkeypatch.setattr("avrt.config.remote_code.check_no_remote_code", lambda *_: None)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match=r"^student\.path: [^\n]*custom code[^\n]*$"):
        Student.load(StudentConfig(path=str(folder)))
    with pytest.raises(ValueError, match=r"^tokenizer: [^\n]*custom code[^\n]*$"):
        token_counter(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_process_with_yes_on_its_standard_input(student_folder: Path, tmp_path: Path) -> None:
    folder = poison(student_folder, tmp_path / "student", "tokenizer_config.json", tokenizer_class="Evil")
    program = (
        "import sys; from avrt.model.student import *\n"
        "try: Student.load(StudentConfig(path=sys.argv[1]))\n"
        "except ValueError as error: print('refused:', error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        input="y\n" * 20,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment(),
        timeout=TIMEOUT,
        check=True,
    )
    assert "refused: student.path" in done.stdout
    assert "tokenizer_config.json" in done.stdout
    assert "[y/N]" not in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_of_traces_with_code_is_refused(student_folder: Path, tmp_path: Path) -> None:
    folder = poison(student_folder, tmp_path / "tokenizer", "tokenizer_config.json", tokenizer_class="Evil")
    with pytest.raises(ValueError, match=r"^tokenizer: .*tokenizer_config\.json.*auto_map"):
        token_counter(str(folder))
    assert not (tmp_path / "ran").exists()


def test_attention_from_the_hub_is_not_fetched(student_folder: Path, tmp_path: Path) -> None:
    """`attn_implementation` may name a repository of compiled code."""
    folder = shutil.copytree(student_folder, tmp_path / "student")
    content = json.loads((folder / "config.json").read_text())
    for part in (content, *(content[key] for key in ("text_config", "vision_config", "audio_config"))):
        part["attn_implementation"] = part["_attn_implementation"] = "nobody/attention"
    (folder / "config.json").write_text(json.dumps(content))
    student = Student.load(StudentConfig(path=str(folder), dtype="float32"))
    for part in (student.thinker.model.visual, student.thinker.model.audio_tower):
        assert part.config._attn_implementation in ("sdpa", ENCODER_ATTENTION_NAME)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def reshape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:-7].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def break_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in messages %}")


def break_settings(folder: Path) -> None:
    (folder / "processor_config.json").write_text('{"a": ')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, r"model\.safetensors has [0-9,]+ of [0-9,]+ bytes: its download was interrupted"),
        (empty, r"model\.safetensors is empty: its download"),
        (reshape, r"lm_head\.weight.*shape"),
        (break_template, r"chat template fails: Unexpected end"),
        (break_settings, r"processor_config\.json"),
    ],
)
def test_damaged_folders_are_one_line(student_folder: Path, tmp_path: Path, damage: Any, says: str) -> None:
    folder = shutil.copytree(student_folder, tmp_path / "student")
    damage(folder)
    with pytest.raises(ValueError, match=rf"student\.path.*({says})") as caught:
        Student.load(StudentConfig(path=str(folder), dtype="float32"))
    assert "\n" not in str(caught.value)
