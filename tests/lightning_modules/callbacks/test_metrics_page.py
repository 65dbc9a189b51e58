"""docs/metrics.md against the metrics that real runs log: none is missing there, and none is made up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from avrt.text.answers import Reason
from lightning_modules.callbacks import SampleTable, Throughput
from tests.lightning_modules.callbacks.tiny_runs import TextReward, events, grpo, scalars, sft, trainer

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
EVERYWHERE = ("In every run", "Damaged data", "Validation")
MEDIA = "Text, images and audio"


def documented() -> dict[str, set[str]]:
    """Metric names by the page's second-level headings: the code in the first cell of each table row."""
    names: dict[str, set[str]] = {}
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| `"):
            found = re.findall(r"`([^`]+)`", line.split("|")[1])
            assert len(found) == 1, line
            assert found[0] not in names.setdefault(section, set()), f"{found[0]} is twice in {section}"
            names[section].add(found[0])
    return names


def expected(section: str) -> set[str]:
    page = documented()
    names = set().union(*(page[name] for name in (*EVERYWHERE, section)))
    return {name.replace("{name}", TextReward.name).replace("{G}", "3") for name in names}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, student_folder: Path, shards: tuple[Path, Path]
) -> dict[str, tuple[set[str], set[str]]]:
    """Names of the curves, and of the texts, images and audio, of two optimizer steps with validation."""
    found = {}
    for kind, parts in (("SFT", sft(student_folder, shards)), ("GRPO", grpo(student_folder, shards))):
        folder = tmp_path_factory.mktemp(kind)
        trainer(folder, [SampleTable(), Throughput(), TextReward()]).fit(*parts)
        tags = events(folder).Tags()
        texts = {tag.removesuffix("/text_summary") for tag in tags["tensors"]}
        found[kind] = set(tags["scalars"]), texts | set(tags["images"]) | set(tags["audio"])
        if kind == "GRPO":
            shares = [scalars(events(folder), f"answers/{reason.value}")[0][1] for reason in Reason]
            assert sum(shares) == pytest.approx(1)  # as documented
    return found


@pytest.mark.parametrize("kind", ["SFT", "GRPO"])
def test_every_logged_metric_is_documented_and_every_documented_one_logged(
    kind: str, runs: dict[str, tuple[set[str], set[str]]]
) -> None:
    assert runs[kind][0] == expected(kind)


def test_texts_pictures_and_sounds_are_documented(runs: dict[str, tuple[set[str], set[str]]]) -> None:
    # The clip in the first row has frames, audio or both, by chance.
    logged = runs["SFT"][1] | runs["GRPO"][1]
    assert logged <= documented()[MEDIA]
    assert {"samples/completions", "samples/validation"} <= logged
    assert logged & {"samples/frames", "samples/audio"}


def test_every_reason_has_its_row() -> None:
    reasons = {name.removeprefix("answers/") for name in documented()["GRPO"] if name.startswith("answers/")}
    assert reasons == {reason.value for reason in Reason}
