"""Tables, images and audio: checked as TensorBoard renders them, against the run itself."""

from __future__ import annotations

import io
import wave
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from tensorboard.plugin_util import markdown_to_safe_html

from avrt.rollout.window_rollout import Rollout
from lightning_modules.callbacks import SampleTable
from lightning_modules.callbacks.samples import MAX_FRAME_SIDE, extremes, frame_grid, wrap
from lightning_modules.loggers.trackers import markdown_table
from tests.lightning_modules.callbacks.tiny_runs import TextReward, events, grpo, sft, texts, trainer

NAN = float("nan")


class LastRollout(Callback):
    rollout: Rollout

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.rollout = module.rollout


class Cells(HTMLParser):
    """The rows of a page's tables; line breaks inside a cell become newlines, other tags are listed in `tags`."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        elif tag == "br":
            self.rows[-1][-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


@pytest.mark.parametrize(
    "text",
    [
        "<think>I see a|b.</think>\n<answer>B</answer>",
        "**bold** _it_ `code` [l](http://x) ![i](j) ~~~ $x^2$ \\| \\\\",
        "<script>alert(1)</script> <b onclick='x'>b</b> &lt; &amp; <!-- no -->",
        "# head\n- list\n\n1. one\n    code\n> quote\n---\n| a | b |",
        "a\r\nb 音 🙂 ◁think▷",
    ],
)
def test_a_cell_shows_its_text_as_it_is(text: str) -> None:
    cells = Cells(markdown_to_safe_html(markdown_table(["x", "y"], [[text, "end"]])))
    assert cells.rows == [["x", "y"], [text.replace("\r\n", "\n"), "end"]]
    assert cells.tags <= {"table", "thead", "tbody", "tr", "th", "td", "br"}


def test_long_lines_are_wrapped_at_spaces_and_lose_no_word() -> None:
    text = "<think>" + "sound of rain " * 100 + "\n\n  indented</think>\n<answer>A</answer>" + "x" * 200
    wrapped = wrap(text, 90)
    assert max(map(len, wrapped.split("\n"))) <= 90
    assert wrapped.replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert "\n\n" in wrapped
    assert wrap("short\nlines", 90) == "short\nlines"


def test_control_characters_are_shown_as_unknown() -> None:
    # TensorBoard's Markdown uses \x02 and \x03 as its own marks: as text they would vanish or break the page.
    cells = Cells(markdown_to_safe_html(markdown_table(["x"], [["a\x02wzxhzdk:0\x03b\x00\x1b[0m"]])))
    assert cells.rows[1] == ["a\ufffdwzxhzdk:0\ufffdb\ufffd\ufffd[0m"]


def test_extremes_spread_equal_totals_over_prompts() -> None:
    totals = torch.tensor([2.0, 2.0, 0.0, 2.0, 1.0, NAN])  # three prompts, two responses each
    assert extremes(totals, 2, 2, 2) == ([0, 1], [2, 4])
    assert extremes(torch.tensor([1.0, 1.0, 1.0, 1.0]), 2, 2, 2) == ([0, 2], [1, 3])


def test_extremes_never_show_a_completion_twice() -> None:
    assert extremes(torch.tensor([1.0, 3.0, 2.0]), 3, 2, 2) == ([1, 2], [0])
    assert extremes(torch.full((4,), NAN), 2, 3, 3) == ([], [])


def test_frames_are_in_reading_order_and_keep_their_colors() -> None:
    frames = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 20, 30) * 10
    grid = frame_grid(frames)
    assert grid.shape == (3, 2 * (20 + 4) + 4, 4 * (30 + 4) + 4)
    centers = grid[0, [14, 38]][:, [19, 53, 87, 121]]
    assert centers.tolist() == [[0, 10, 20, 30], [40, 50, 60, 70]]


def test_large_frames_shrink_and_keep_their_shape() -> None:
    grid = frame_grid(torch.zeros(1, 3, 720, 1280, dtype=torch.uint8))
    assert grid.shape == (3, 180, MAX_FRAME_SIDE)


@pytest.mark.parametrize(
    ("settings", "named"), [({"every_n_steps": 0}, "every_n_steps"), ({"num_best": 0, "num_worst": 0}, "num_best")]
)
def test_settings_that_show_nothing_are_refused(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SampleTable(**settings)


def test_grpo_shows_the_best_and_the_worst_completions(
    tmp_path: Path, student_folder: Path, shards: tuple[Path, Path]
) -> None:
    module, data = grpo(student_folder, shards)
    table = SampleTable(every_n_steps=1, num_best=2, num_worst=1)
    last = LastRollout()
    trainer(tmp_path, [TextReward(weight=2.0), table, last]).fit(module, data)
    found, rollout = events(tmp_path), last.rollout
    assert set(texts(found, "samples/completions")) == {0, 1}

    cells = Cells(markdown_to_safe_html(texts(found, "samples/completions")[1]))
    header, *rows = cells.rows
    assert header == ["scores", "question", "completion"]
    totals = rollout.rewards.total.tolist()
    shown = [totals.index(t) for t in (sorted(totals)[-1], sorted(totals)[-2], min(totals))]
    for (scores, question, reply), label, i in zip(rows, ("best 1", "best 2", "worst 1"), shown, strict=True):
        completion = rollout.completions[i]
        advantage = rollout.statistics.advantages[i].item()
        assert scores.split("\n") == [
            label,
            f"sum {totals[i]:.3g}",
            f"text {totals[i] / 2:.3g}",
            f"advantage {advantage:+.2f}",
        ]
        assert question.startswith("Which thing is seen and heard?\nA. red bell\nB. blue hum\n")
        assert question.endswith(f"\ngold {completion.sample.gold}")
        visible = "".join("\ufffd" if ord(c) == 127 or (ord(c) < 32 and c != "\n") else c for c in completion.text)
        cut = "[cut at the token limit]"
        assert reply.removesuffix(cut).split() == visible.split()
        assert reply.endswith(cut) == (completion.finish_reason == "length")

    sample = rollout.completions[shown[0]].sample
    clip = sample.clip
    assert clip is not None
    assert sample.id.replace("-", "&#45;").replace("_", "&#95;") in texts(found, "samples/completions")[1]
    if clip.frames is not None:
        image = found.Images("samples/frames")[-1]
        assert image.step == 1
        pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        height, width = clip.frames.shape[-2:]
        border = 0 if len(clip.frames) == 1 else 4
        assert (
            pixels[border : border + height, border : border + width] == clip.frames[0].permute(1, 2, 0).numpy()
        ).all()
    if clip.waveform is not None:
        with wave.open(io.BytesIO(found.Audio("samples/audio")[-1].encoded_audio_string)) as audio:
            assert audio.getframerate() == 16_000
            played = np.frombuffer(audio.readframes(-1), "<i2") / 32767
        np.testing.assert_allclose(played, clip.waveform.clamp(-1, 1).numpy(), atol=1 / 32767)


def test_tables_come_every_so_many_optimizer_steps(
    tmp_path: Path, student_folder: Path, shards: tuple[Path, Path]
) -> None:
    module, data = grpo(student_folder, shards, num_generations=2, max_completion_length=2)
    trainer(tmp_path, [TextReward(), SampleTable(every_n_steps=2)], max_steps=4, val_check_interval=8).fit(module, data)
    assert set(texts(events(tmp_path), "samples/completions")) == {0, 2}


def test_sft_shows_validation_answers(tmp_path: Path, student_folder: Path, shards: tuple[Path, Path]) -> None:
    module, data = sft(student_folder, shards)
    trainer(tmp_path, [SampleTable(num_worst=3)]).fit(module, data)
    found = events(tmp_path)
    page = texts(found, "samples/validation")
    assert set(page) == {1}  # validation after the second step
    header, *rows = Cells(markdown_to_safe_html(page[1])).rows
    assert header == ["reading", "question", "completion"]
    assert len(rows) == 3
    for reading, _, reply in rows:  # a random student never answers
        verdict, answer, form = reading.split("\n")
        assert (verdict, answer) == ("wrong", "answer none")
        assert (form == "form truncated") == reply.endswith("[cut at the token limit]")
    assert "samples/completions/text_summary" not in found.Tags()["tensors"]


def test_a_run_without_tensorboard_is_told(tmp_path: Path, student_folder: Path, shards: tuple[Path, Path]) -> None:
    module, data = sft(student_folder, shards)
    with pytest.warns(UserWarning, match="SampleTable writes nothing"):
        trainer(tmp_path, [SampleTable()], logger=False, max_steps=1, limit_val_batches=0).fit(module, data)
