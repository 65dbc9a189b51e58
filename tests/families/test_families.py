"""Families of students: which one a folder is of, and that nothing outside of their package names one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avrt.config.errors import UsageError
from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.families.family import StudentFamily
from avrt.families.registry import FAMILIES, family_of_path, family_of_processor
from avrt.media.geometry import TOKEN_SIDE
from avrt.model.loading import student_family
from avrt.model.tiny import TinyShape, tiny_config
from avrt.planning.shapes import PUBLISHED, load_config
from tests.tiny_student import CORPUS, EXPERTS

ROOT = Path(__file__).resolve().parents[2]
FIRST = FAMILIES[0]


def write_config(folder: Path, content: object) -> str:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("content", "family"),
    [
        ({"model_type": "qwen2_5_omni"}, FIRST),
        ({"model_type": "qwen2_5_omni_thinker"}, FIRST),
        ({"model_type": "qwen3_omni_moe"}, EXPERTS),
        ({"model_type": "qwen3_omni_moe_thinker"}, EXPERTS),
        ({"thinker_config": {"model_type": "qwen3_omni_moe_thinker"}}, EXPERTS),
        ({"architectures": ["Qwen2_5OmniModel"]}, FIRST),
        ({"architectures": ["Qwen3OmniMoeForConditionalGeneration"]}, EXPERTS),
    ],
    ids=str,
)
def test_a_folder_says_its_family(tmp_path: Path, content: object, family: StudentFamily) -> None:
    assert family_of_path(write_config(tmp_path, content)) is family


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model_type": "llava"},
            r"config\.json: model_type is 'llava', which no family of students has \(known: qwen2",
        ),
        ({}, r"config\.json: model_type is None, which no family"),
        ([], r"config\.json: is not a JSON object"),
    ],
    ids=str,
)
def test_a_folder_of_no_family(tmp_path: Path, content: object, message: str) -> None:
    path = write_config(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        family_of_path(path)
    with pytest.raises(ValueError, match=rf"^student\.path: .*{message}"):
        student_family(path)


def test_a_folder_without_its_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"student\.path: .* has no config\.json"):
        student_family(str(tmp_path))


def test_a_processor_of_no_family() -> None:
    with pytest.raises(ValueError, match="int is the processor of no family of students"):
        family_of_processor(3)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_what_a_family_says_fits_together(family: StudentFamily) -> None:
    for hub_id, shapes in family.published.items():
        config, source = load_config(hub_id)
        assert (PUBLISHED / f"{shapes}.json").is_file()
        assert hub_id.rpartition("/")[2] in source
        assert config.model_type == family.thinker_type
        assert family.frame_pixels_per_token(config) >= TOKEN_SIDE**2
    assert set(family.sizes.values()) <= family.published.keys()
    assert set(family.media_tokens.all) <= {*family.tiny_special_tokens}
    assert set(family.end_tokens) <= {*family.tiny_special_tokens}
    assert family.audio_tokens(family.shortest_audio // 160) == 1
    assert family.audio_tokens(1000) == pytest.approx(10 * family.audio_tokens_per_second, abs=1)


def test_the_unit_of_packed_frames_is_the_smallest_token() -> None:
    published = [(family, load_config(hub_id)[0]) for family in FAMILIES for hub_id in family.published]
    assert min(family.frame_pixels_per_token(config) for family, config in published) == TOKEN_SIDE**2


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("exports/sft_7b", "Qwen2.5-Omni-7B"),
        ("/models/Qwen2.5-Omni-3B", "Qwen2.5-Omni-3B"),
        ("exports/grpo_qwen3_omni_30b_lora", "Qwen3-Omni-30B-A3B-Instruct"),
        ("/models/Qwen3-Omni-30B-A3B-Thinking", "Qwen3-Omni-30B-A3B-Instruct"),
        ("exports/qwen3_omni_30b_from_7b_traces", "Qwen3-Omni-30B-A3B-Instruct"),
    ],
)
def test_a_folder_that_does_not_exist_yet(path: str, found: str) -> None:
    _, source = load_config(path)
    assert source == f"the published shapes of {found} ({path} does not exist)"


@pytest.mark.parametrize(
    "path", ["Qwen/Qwen2.5-VL-7B-Instruct", "openbmb/MiniCPM-o-7B-x", "OpenGVLab/InternVL-30B-A3B"]
)
def test_models_of_other_kinds_are_not_planned_as_students(path: str) -> None:
    with pytest.raises(UsageError, match="is not a known hub id"):
        load_config(path)


def test_no_other_package_names_a_family() -> None:
    """Classes, model types and media tokens; hub ids in examples and defaults are no part of a family."""
    names = [family.class_prefix for family in FAMILIES] + [f'"{family.model_type}' for family in FAMILIES]
    names += [token for family in FAMILIES for token in family.media_tokens.all]
    for package in ("avrt", "lightning_modules", "datamodules"):
        for file in (ROOT / package).rglob("*.py"):
            if "families" not in file.parts:
                text = file.read_text(encoding="utf-8")
                assert not [name for name in names if name in text], file.relative_to(ROOT)


def test_a_tokenizer_of_another_family() -> None:
    tokenizer = build_tiny_tokenizer(CORPUS, vocab_size=320, family=FIRST)
    with pytest.raises(ValueError, match=r"no token '<\|image_pad\|>'; it is of another family"):
        tiny_config(TinyShape(), tokenizer, family=EXPERTS)
