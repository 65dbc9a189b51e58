"""What is fuzzed: readers of untrusted input, the inputs they get, and the errors that they may raise."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from pathlib import Path

import yaml
from hypothesis import strategies as st

from avrt.config.dataclass_options import read_dataclass
from avrt.config.errors import UsageError
from avrt.config.scan import scan_file
from avrt.data.faults import ShardError
from avrt.data.shards import ShardSet
from avrt.evaluation.server_config import ServerRunConfig
from avrt.media.errors import MediaError
from avrt.media.reader import read_media
from avrt.sample import LETTERS
from avrt.servers.outcome import Status
from avrt.text.answers import Reason, first_think, parse
from avrt.traces.call_records import CallRecord, encode_record
from avrt.traces.config import TracesConfig
from avrt.traces.ledger import LedgerError, LedgerIndex
from tests.fuzz.mutation import mutated
from tests.media_files import as_int16, numbered_frame, tone, write_video
from tests.shard_files import write_set
from tests.wild_replies import NOT_SURE, SURE

REPOSITORY = Path(__file__).resolve().parents[2]
REAL = REPOSITORY.parent / "shared" / "real"
"""Real clips and replies of teachers, where they are present."""

LARGEST = 600_000
"""Bytes of the real files that are mutated; larger ones take long to copy and reach no other code."""


class Target(ABC):
    """One reader.

    Args:
        folder: for its files; an input is a file in it.
    """

    errors: tuple[type[Exception], ...]
    """What the reader may raise."""
    memory = 4 * 2**30
    """Address space in bytes, of which the libraries take about a quarter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def inputs(self) -> st.SearchStrategy[bytes]:
        """Inputs as bytes."""

    @abstractmethod
    def read(self, data: bytes) -> str:
        """Read one input, and return its kind of outcome.

        Raises:
            AssertionError: the result is wrong.
        """


def check_one_line(error: Exception) -> None:
    """Errors are lines of a log or a table."""
    assert "\n" not in str(error), f"an error of several lines: {error}"


def damaged(files: list[bytes]) -> st.SearchStrategy[bytes]:
    """Mutated copies of some files."""
    seeds = st.integers(0, 2**63)
    numbers = st.integers(0, len(files) - 1)  # of files: hypothesis prints what it draws from
    return st.builds(lambda number, seed: mutated(files[number], random.Random(seed)), numbers, seeds)


PIECES = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            "◁think▷",
            "◁/think▷",
            "<|im_end|>",
            "Answer:",
            "**",
            "\\boxed{",
        ),
        *(
            "A",
            "B",
            "(C)",
            "d.",
            "not ",
            "or",
            " ",
            "\n",
            ".",
            ",",
            "?",
            "cat",
            "\\text{B}",
            "$",
            "}",
            "option ",
            "the ",
        ),
        *(
            "correct",
            "answer is ",
            "I think",
            "neither",
            "\u2028",
            "\ud800",
            "\x00",
            "１",
            "Ａ",
            "é",
            "_" * 300,
            "a " * 300,
        ),
    ]
)


class AnswerParser(Target):
    """`parse`: any text, any options, both profiles."""

    errors = ()
    options = (("cat", "dog", "Pop rock", "hail"), ("A", "B"), ("the", "the cat", "(", "", "\\"), tuple("abcdefghij"))

    def inputs(self) -> st.SearchStrategy[bytes]:
        texts = st.one_of(
            st.text(), st.lists(PIECES, max_size=60).map("".join), st.lists(PIECES, max_size=60).map(" ".join)
        )
        replies = [reply.encode("utf-8", "surrogatepass") for reply in (*SURE, *NOT_SURE)]
        replies += [line for file in sorted(REAL.glob("traces/*.jsonl")) for line in file.read_bytes().splitlines()]
        return st.one_of(texts.map(lambda text: text.encode("utf-8", "surrogatepass")), damaged(replies))

    def read(self, data: bytes) -> str:
        text = data.decode("utf-8", "surrogateescape")
        options = self.options[len(data) % len(self.options)]
        found = ""
        for profile in ("paper", "robust"):
            for finish in ("length", "stop"):
                answer = parse(text, options, profile=profile, finish_reason=finish)  # type: ignore[arg-type]
                assert answer.letter is None or answer.letter in LETTERS[: len(options)]
                assert isinstance(answer.reason, Reason)
                found = answer.reason
        first_think(text)
        return str(found)


class ShardReader(Target):
    """`ShardSet` on one tar: opened, and every sample read and decoded."""

    errors = (ShardError,)

    def inputs(self) -> st.SearchStrategy[bytes]:
        write_set(self.folder / "set")
        files = [path.read_bytes() for path in sorted((self.folder / "set").glob("*.tar"))]
        texts = [(self.folder / "set" / "manifest.json").read_bytes()]
        return st.one_of(damaged(files), damaged(files), damaged(texts).map(lambda text: b"M" + text), st.binary())

    def read(self, data: bytes) -> str:
        if data[:1] == b"M":  # a damaged manifest beside whole shards
            (self.folder / "set" / "manifest.json").write_bytes(data[1:])
            try:
                samples = ShardSet(self.folder / "set", on_error="skip")
            except ValueError as error:
                check_one_line(error)
                return "refused manifest"
        else:
            path = self.folder / "one.tar"
            path.write_bytes(data)
            samples = ShardSet(path, on_error="skip")
        whole = 0
        for index in range(len(samples)):
            try:
                sample = samples[index]
                assert sample.clip is not None
                whole += 1
            except ShardError as error:
                check_one_line(error)
        return f"{whole} samples"


class ClipDecoder(Target):
    """`read_media` on one file, as video and as image."""

    errors = (MediaError,)

    def inputs(self) -> st.SearchStrategy[bytes]:
        frames = [numbered_frame(number, height=112) for number in range(12)]
        sounds = as_int16(tone(440, 3, 16_000))
        files = []
        for name, audio in (("a.mp4", "aac"), ("a.mkv", "flac"), ("a.avi", "pcm_s16le")):
            path = write_video(self.folder / name, frames, audio=sounds, audio_codec=audio)
            files.append(path.read_bytes())
        real = [path for folder in ("odd", "avqa/videos") for path in sorted((REAL / folder).glob("*.*"))]
        files += [path.read_bytes() for path in real if path.suffix != ".md" and 0 < path.stat().st_size < LARGEST]
        return damaged(files)

    def read(self, data: bytes) -> str:
        path = self.folder / ("clip.mp4" if len(data) % 8 else "image.png")
        path.write_bytes(data)
        kind = {"video": path} if len(data) % 8 else {"image": path}
        clip = read_media(**kind, require_audio=False)  # type: ignore[arg-type]
        assert clip.frames is not None
        return f"{len(clip.frames)} frames"


class LedgerReader(Target):
    """`LedgerIndex` on one file, and every record read again."""

    errors = (LedgerError,)

    def inputs(self) -> st.SearchStrategy[bytes]:
        line = st.builds(
            lambda key, text, status, count: encode_record(
                CallRecord(
                    key=key, stage="vision", sample="s", text=text, status=status, usage={"prompt_tokens": count}
                )
            ),
            st.text(st.characters(codec="utf-8"), max_size=8),
            st.text(st.characters(codec="utf-8")),
            st.sampled_from(Status),
            st.integers(),
        )
        files = st.lists(line, max_size=6).map(b"".join)
        seeds = st.integers(0, 2**63)
        broken = st.builds(lambda file, seed: mutated(file, random.Random(seed)), files, seeds)
        return st.one_of(files, broken, broken, st.binary())

    def read(self, data: bytes) -> str:
        (self.folder / "calls.jsonl").write_bytes(data)
        index = LedgerIndex(self.folder)
        for key in list(index._places):
            record = index.get(key)
            assert record is not None
            assert record.status is index.status(key)
        return f"{min(len(index), 3)} records"


class ConfigParser(Target):
    """`read_dataclass` on one file: the scan, the YAML parser and the types, of traces and of evaluations."""

    errors = (UsageError,)

    def inputs(self) -> st.SearchStrategy[bytes]:
        files = [path.read_bytes() for path in sorted((REPOSITORY / "cli_configs").rglob("*.yaml"))]
        leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
        values = st.recursive(
            leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner)
        )
        keys = st.sampled_from(
            ["shards", "teachers", "server", "questions", "merge", "output", "sampling", "model", "<<"]
        )
        texts = st.dictionaries(keys, values, max_size=5).map(lambda value: repr(value).encode("utf-8", "replace"))
        return st.one_of(damaged(files), damaged(files), texts, st.binary())

    def read(self, data: bytes) -> str:
        path = self.folder / "run.yaml"
        path.write_bytes(data)
        kinds: dict[bytes, type] = {b"teachers:": TracesConfig, b"server:": ServerRunConfig}
        kind = next((kind for key, kind in kinds.items() if key in data), None)
        if kind is None:  # of a training run, or of nothing
            scan_file(path)
            assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)
            return "scanned"
        read_dataclass(kind, [path], [], "example.yaml")
        return f"accepted as {kind.__name__}"


TARGETS: dict[str, type[Target]] = {
    "answer_parser": AnswerParser,
    "shard_reader": ShardReader,
    "clip_decoder": ClipDecoder,
    "ledger_reader": LedgerReader,
    "config_parser": ConfigParser,
}
