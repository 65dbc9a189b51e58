"""The README's commands, in its own order, on a small set of clips.

Each command runs as it is written where a machine without a GPU can run it in seconds. Runs of minutes are shortened by
options behind the README's own, and what needs GPUs or servers is read by the real parser.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from avrt.class_paths import ALLOWED_PREFIXES, enforce
from avrt.cli import main
from avrt.demo.build import build_demo_clips

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.replace("\\\n", " ").splitlines()]


def words_of(line: str) -> list[str]:
    """What follows ``uv run python -m avrt``."""
    words = shlex.split(line)
    assert words[:5] == ["uv", "run", "python", "-m", "avrt"], line
    return words[5:]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, student_folder: Path) -> Path:
    """A folder with the clips, annotations, configs and packages that the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "cli_configs").symlink_to(ROOT / "cli_configs")
    files = build_demo_clips(folder / "clips", train_clips=64, val_clips=64, questions_per_clip=1)
    (folder / "avqa").mkdir()
    shutil.copy(files.train_annotations, folder / "avqa" / "train_qa.json")
    shutil.copy(files.val_annotations, folder / "avqa" / "val_qa.json")
    (folder / "avqa" / "videos").symlink_to(files.videos)
    reward = next(text for language, text in BLOCKS if language == "python")
    (folder / "my_rewards.py").write_text(reward, encoding="utf-8")
    preset = (ROOT / "cli_configs" / "grpo_tiny.yaml").read_text(encoding="utf-8")
    entry = next(text for language, text in BLOCKS if language == "yaml")
    (folder / "my_grpo.yaml").write_text(preset.replace("  callbacks:\n", "  callbacks:\n" + entry, 1), "utf-8")
    return folder


def short_training(student: Path) -> list[str]:
    """Options that make a preset a matter of seconds."""
    options = {
        "trainer.max_steps": "1",
        "trainer.limit_val_batches": "1",
        "model.init_args.student.path": str(student),
        "model.init_args.student.min_pixels": "784",
        "model.init_args.student.max_pixels": "784",
        "model.init_args.max_completion_length": "8",
        "data.init_args.train": "shards/avqa/train",
        "data.init_args.val": "shards/avqa/val",
        "data.init_args.batch_size": "2",
        "data.init_args.num_workers": "0",
    }
    return [word for key, value in options.items() for word in (f"--{key}", value)]


def test_the_readme_in_its_own_order(
    workplace: Path, student_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)  # docs/rewards.md has another package of this name

    def run(words: list[str]) -> None:
        assert main(words) == 0, (words, capsys.readouterr().err)

    def train_shortly(words: list[str]) -> None:
        run([*words, *short_training(student_folder)])

    def parse_only(words: list[str]) -> None:
        from avrt import lightning_cli

        enforce(ALLOWED_PREFIXES)
        assert lightning_cli.parser().parse_args(words)[words[0]].model.class_path

    def arguments_only(words: list[str]) -> None:
        """The command knows these options; its runs have tests of their own."""
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code in (None, 0)
        page = capsys.readouterr().out
        for word in words[1:]:
            if word.startswith("--"):
                assert word in page

    handled: dict[str, Callable[[list[str]], None]] = {
        "demo": arguments_only,
        "fit --config cli_configs/grpo_tiny.yaml": train_shortly,
        "fit --config my_grpo.yaml --allow-classes my_rewards": train_shortly,
        "fit --config cli_configs/sft_7b.yaml": parse_only,
        "fit --config cli_configs/grpo_7b.yaml": parse_only,
        "test": parse_only,
        "traces": arguments_only,
        "plan": arguments_only,
        "export": arguments_only,
        "compare": arguments_only,
        "report": arguments_only,
        "pack": run,
        "inspect": run,
    }
    lines = [line for line in COMMANDS if " avrt " in line]
    packs = [line for line in lines if words_of(line)[0] in ("pack", "inspect")]
    # Training reads what packing left, so packing comes first here.
    for line in packs + [line for line in lines if line not in packs]:
        words = words_of(line)
        key = " ".join(words) if " ".join(words) in handled else words[0]
        assert key in handled, f"the README has a command that this test does not know: {line}"
        handled[key](words)
    curves = list((workplace / "runs").rglob("events.out.tfevents.*"))
    assert curves, "training left no curves where the README's tensorboard looks for them"


def test_each_command_reads_what_an_earlier_one_has_left() -> None:
    """Folders, from the clips to the report: those that a command or its config names, and those that exist by then."""
    there = {"avqa/train_qa.json", "avqa/val_qa.json", "avqa/videos"}
    for line in COMMANDS:
        if " avrt " not in line or "_tiny" in line or "my_grpo" in line:
            continue  # the demo's parts are built on first use
        name, *words = words_of(line)
        options = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--")}
        settings = yaml.safe_load((ROOT / options["--config"]).read_text("utf-8")) if "--config" in options else {}
        reads: list[str] = []
        if name == "pack":
            reads += [options["--annotations"], options["--videos"]]
            there.add(options["--out"])
        elif name == "traces":
            reads.append(settings["shards"])
            # Where the input has one split, a share of it becomes the other one.
            there.update(f"{settings['output']}/{split}" for split in ("train", "val"))
        elif name == "fit":
            data, student = settings["data"]["init_args"], settings["model"]["init_args"]["student"]["path"]
            reads += [data["train"], data["val"], *([] if student.startswith("Qwen/") else [student])]
            there.add(settings["trainer"]["logger"]["init_args"]["save_dir"])
        elif name == "export":
            reads.append(words[0])
            there.add(options["--out"])
        elif name == "test":
            student = options["--model.init_args.student.path"]
            reads += [] if student.startswith("Qwen/") else [student]
            there.add(options["--trainer.logger.init_args.save_dir"])
        elif name in ("inspect", "compare", "report"):
            reads += words[: words.index("--out")] if "--out" in words else words
        missing = [path for path in reads if path not in there]
        assert not missing, line


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_set_up_commands_are_the_ones_the_checks_use() -> None:
    rest = [line for line in COMMANDS if " avrt " not in line]
    assert rest == ["pip install uv", "uv sync", "uv run tensorboard --logdir runs"]
