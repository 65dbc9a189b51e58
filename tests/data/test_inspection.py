"""What `inspect` counts and writes."""

import argparse
import json

import pytest
import soundfile
import torch
from PIL import Image

from avrt.commands import inspect as inspect_command
from avrt.data.inspection import summarize, write_sample
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.sample import Clip, Sample


@pytest.fixture
def shards(tmp_path):
    def clip(seconds: float, audio: bool = True) -> Clip:
        return Clip(
            frames=torch.full((2, 3, 16, 24), 200, dtype=torch.uint8),
            timestamps=(seconds / 4, 3 * seconds / 4),
            fps=2 / seconds,
            waveform=torch.full((1600,), 0.25) if audio else None,
            duration=seconds,
            width=48,
            height=32,
        )

    common = {"question": "Which [b]one[/b]?", "options": ("x", "y", "z")}
    samples = [
        Sample("a", answer=0, source="c1", question_type="Which", modality="Both", clip=clip(10.0), **common),
        Sample("b", answer=0, source="c1", question_type="[bold]Why", trace="t", clip=clip(10.0), **common),
        Sample("c", answer=2, source="c2", question_type="Which", clip=clip(4.0, audio=False), **common),
        Sample("d", answer=1, source="c3", split="val", clip=clip(6.0), **common),
    ]
    with ShardWriter(tmp_path / "shards", samples_per_shard=2) as writer:
        for sample in samples:
            writer.write(sample)
    return tmp_path / "shards"


def run(*words) -> int:
    parser = argparse.ArgumentParser()
    inspect_command.add_arguments(parser)
    return inspect_command.run(parser.parse_args([str(word) for word in words]))


def test_counts(shards):
    summaries = summarize(ShardSet(shards))
    assert list(summaries) == ["train", "val"]
    train = summaries["train"]
    assert (train.samples, train.clips, train.traces) == (3, 2, 1)
    assert train.duration_seconds == (4.0, 8.0, 10.0)
    assert train.answers == {"A": 2, "C": 1}
    assert train.question_types == {"Which": 2, "[bold]Why": 1}
    assert train.modalities == {"Both": 1, "(not given)": 2}
    assert train.streams == {"video and audio": 2, "video only": 1}
    assert train.frame_sizes == {"48x32": 3}
    assert (train.num_frames, train.options) == ({2: 3}, {3: 3})
    assert (summaries["val"].samples, summaries["val"].answers) == (1, {"B": 1})


def test_printed(shards, capsys):
    assert run(shards, "--verify") == 0
    printed = capsys.readouterr().out
    for text in ("split train", "3 about 2 clips", "A 2 (67 %), B 0 (0 %), C 1 (33 %)", "[bold]Why 1", "split val"):
        assert text in printed
    assert "4 samples in 2 shards: all bytes are as they were written" in printed


def test_json(shards, capsys):
    assert run(shards, "--json", "--split", "val") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["splits"]["val"]["answers"] == {"B": 1}
    assert content["faults"] == []


def test_show_writes_one_sample(shards, tmp_path):
    assert run(shards, "--show", "b", "--out", tmp_path / "look") == 0
    folder = tmp_path / "look"
    assert sorted(path.name for path in folder.iterdir()) == ["b.frame00.jpg", "b.frame01.jpg", "b.txt", "b.wav"]
    assert Image.open(folder / "b.frame01.jpg").size == (24, 16)
    audio, rate = soundfile.read(folder / "b.wav")
    assert (rate, len(audio), audio[0]) == (16_000, 1600, 0.25)
    text = (folder / "b.txt").read_text()
    for part in (
        "Which [b]one[/b]?",
        "B. y",
        "right answer: A",
        "10.000 s, 48x32",
        "at 2.500, 7.500 s, 0.2000",
        "trace:\nt",
    ):
        assert part in text


def test_show_of_an_unknown_key(shards, tmp_path):
    with pytest.raises(ValueError, match="no sample 'zzz'; the first are a, b"):
        write_sample(ShardSet(shards), "zzz", tmp_path)


def test_damage_is_listed_and_sets_the_status(shards, capsys):
    path = shards / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"b.frame00.jpg") + 600] ^= 1
    path.write_bytes(data)
    assert run(shards) == 0
    assert run(shards, "--verify") == 1
    printed = capsys.readouterr().out.replace("\n", "")
    assert "2 faults" in printed
    assert "sample 'b': checksum" in printed


def test_real_annotations(real_data, tmp_path):
    """Counts of the real questions, with stand-in media, equal a plain count of the file."""
    from collections import Counter

    from avrt.data.annotations import ReadOptions, read_annotations

    samples = read_annotations(real_data / "avqa" / "train_qa.json", ReadOptions(split="train")).samples
    with ShardWriter(tmp_path / "s") as writer:
        for sample in samples:
            clip = Clip(None, waveform=torch.zeros(16), duration=1.0)
            writer.write(Sample(**{**{f: getattr(sample, f) for f in sample.__dataclass_fields__}, "clip": clip}))
    records = json.loads((real_data / "avqa" / "train_qa.json").read_text())
    summary = summarize(ShardSet(tmp_path / "s"))["train"]
    assert summary.question_types == Counter(record["question_type"] for record in records)
    assert summary.answers == Counter("ABCD"[record["answer"]] for record in records)
    assert summary.clips == len({record["video_name"] for record in records})
