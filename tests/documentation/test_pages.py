"""Every command of the pages in `docs/`, page by page and in the page's order.

Each page starts from a folder in which the README's data commands (`pack` and `traces`) have been run. The students are
those of `tests.tiny_student`, which take less time than the published layout of the README's test.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.answering_student import save_answering_student
from tests.documentation.own_data import object_storage
from tests.documentation.pages import PAGES, ROOT, Command, blocks, commands, shown_files
from tests.documentation.sandbox import Sandbox

NOT_HERE = {
    "vllm": "needs GPUs, and weights that are not at hand",
    "sh": "tests/experiments/test_runner.py runs such a script",
    "make": "downloads",
    "benchmarks.gpu": "tests/benchmarks runs it in miniature",
    "sbatch": "tests/distributed/test_scripts.py runs the script with programs of Slurm's names",
    "scripts/torchrun.sh": "tests/distributed/test_scripts.py runs it under torchrun",
    "pip": "installs",
}
"""Programs whose commands are not run here."""

MEASURED = {"schema": 1, "device": {"name": "a GPU"}, "parts": {}, "hardware": {"launch_us": 5.0}}
"""A file of `benchmarks.gpu`, which pages pass on to `plan`."""

ONLINE = "--push-to-hub"
"""Commands with this option need the Hub; tests/model/test_hub_upload.py runs them against a server like it."""

DOCS = [page for page in PAGES if page.parent.name == "docs" and any(command.avrt for command in commands(page))]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_a_page_in_its_own_order(
    page: Path,
    packed: Path,
    student_folder: Path,
    new_sandbox: Callable[..., Sandbox],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if any({"--serve", "--student"} <= {*command.words} for command in commands(page)):
        # It has to answer right sometimes, or there would be no traces to train on.
        student_folder = save_answering_student(student_folder, tmp_path_factory.mktemp("answering") / "student")
    sandbox = new_sandbox(tmp_path, student=student_folder)
    for name in ("shards", "ledgers", "mine", "v2d"):
        shutil.copytree(packed / name, tmp_path / name, symlinks=True)
    if any("AVRT-20K.parquet" in command.words for command in commands(page)):
        shutil.rmtree(tmp_path / "shards" / "avrt20k")  # the page makes it from the published file
    link_exports(tmp_path, commands(page), student_folder)
    (tmp_path / "gpu.json").write_text(json.dumps(MEASURED))
    for name, text in shown_files(page).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    needs_storage = any("s3://" in word for command in commands(page) for word in command.words)
    with object_storage() if needs_storage else nullcontext():
        for command in commands(page):
            if command.avrt is None:
                assert {command.words[0], command.module} & NOT_HERE.keys(), f"{command} is run nowhere"
            elif ONLINE not in command.words:
                sandbox.run(command.avrt)
        sandbox.close()
    for line, seconds in sandbox.ran:
        print(f"{seconds:6.1f} s  {line}")


def link_exports(folder: Path, page_commands: list[Command], student: Path) -> None:
    """Students that an earlier page has exported, unless a command of this one does."""
    exporting = [words for c in page_commands if (words := c.avrt) and words[0] == "export" and ONLINE not in words]
    made = {words[words.index("--out") + 1] for words in exporting}
    for name in ("sft_3b", "sft_7b", "grpo_3b", "grpo_7b"):
        if f"exports/{name}" not in made:
            (folder / "exports").mkdir(exist_ok=True)
            (folder / "exports" / name).symlink_to(student)


def test_every_block_of_commands_is_marked() -> None:
    """A block without the word `bash` behind its fence would be run by nobody."""
    for page in PAGES:
        for block in blocks(page):
            if block.language not in ("bash", "python", "yaml", "toml", "json", "text"):
                raise AssertionError(
                    f"{page.relative_to(ROOT)}:{block.line}: a block of {block.language or 'no'} language"
                )
