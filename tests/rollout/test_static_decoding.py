"""Static decoding: the tokens of plain decoding, from steps that never wait and that have few shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from math import ceil, log2
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rollout import builtin, decode_layout, static_decoding, static_layout
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response, SamplingConfig
from avrt.rollout.static_decoding import StaticDecoding, decoding_path, halvings
from tests.tiny_student import mixed_samples

CONFIG = SamplingConfig(max_completion_length=30)
SEEDS = (3, 1, 4, 1)
GROUP = 5


@pytest.fixture
def prompts(student32: Student) -> list[EmbeddedPrompt]:
    return student32.embed([student32.encoder.encode(sample) for sample in mixed_samples()])


@pytest.fixture
def short_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches that grow several times within the responses of these tests."""
    for module in (decode_layout, static_layout):
        monkeypatch.setattr(module, "INITIAL_CACHE_STEPS", 7)


def engine(student: Student, decoding: str, config: SamplingConfig = CONFIG, **settings: Any) -> TransformersRollout:
    """Few tokens are allowed, one or two of which end a response: responses end after a few steps, one by one."""
    banned = torch.ones_like(student.banned_tokens)
    banned[list(range(10, 40))] = False
    config = replace(config, decoding=decoding)
    settings = {"eos_token_ids": (11, 12), "banned": banned} | settings
    return TransformersRollout(student.language_model, config, **settings)


def flat(groups: list[list[Response]]) -> list[Response]:
    return [response for group in groups for response in group]


def assert_same(ours: list[list[Response]], theirs: list[list[Response]]) -> None:
    assert [len(group) for group in ours] == [len(group) for group in theirs]
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert a.finished == b.finished
        torch.testing.assert_close(a.logprobs, b.logprobs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_completion_length": 1},
        {"max_completion_length": 2},
        {"max_completion_length": 9},
        {"max_completion_length": 80, "group": 3},  # whole prompts end
        {"temperature": 0.0},
        {"temperature": 0.6},
        {"kv_cache_tokens": 1},
        {"kv_cache_tokens": 600},
        {"eos_token_ids": (11,)},
        {"eos_token_ids": ()},
        {"eos_token_ids": (0, 11), "banned": None},
        {"share_prefill": False},
        {"group": 1},
        {"group": 8},
    ],
    ids=str,
)
def test_the_tokens_are_those_of_plain_decoding(
    student32: Student, prompts: list[EmbeddedPrompt], short_caches: None, settings: dict[str, Any]
) -> None:
    """Prompts of several lengths, and responses that end at different times."""
    group = settings.get("group", GROUP)
    names = ("max_completion_length", "temperature", "kv_cache_tokens")
    config = replace(CONFIG, **{name: settings[name] for name in names if name in settings})
    own = {name: settings[name] for name in ("eos_token_ids", "banned", "share_prefill") if name in settings}
    plain, static = (
        engine(student32, decoding, config, **own).generate(prompts, group, SEEDS) for decoding in ("plain", "static")
    )
    assert_same(static, plain)
    lengths = {len(response.token_ids) for response in flat(plain)}
    if not settings:
        assert len(lengths) > 8, "responses must end at different times, or this test shows little"


def test_half_precision(student32: Student, prompts: list[EmbeddedPrompt], short_caches: None) -> None:
    """Under autocast, caches and queries have another type than the hidden states."""
    with torch.autocast("cpu", torch.bfloat16):
        plain, static = (engine(student32, name).generate(prompts, 2, SEEDS) for name in ("plain", "static"))
    for a, b in zip(flat(plain), flat(static), strict=True):
        # A draw on the border of two tokens may fall to either: from there on responses differ.
        same = 0
        while same < min(len(a.token_ids), len(b.token_ids)) and a.token_ids[same] == b.token_ids[same]:
            same += 1
        assert same >= 1
        torch.testing.assert_close(a.logprobs[:same], b.logprobs[:same], rtol=0, atol=0.05)
    assert sum(a.token_ids.equal(b.token_ids) for a, b in zip(flat(plain), flat(static), strict=True)) >= 6


class HostReads(TorchFunctionMode):
    """Counts what makes the host wait for a GPU: values of tensors, and shapes that depend on them."""

    VALUES = ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "is_nonzero", "equal")
    SHAPES = ("nonzero", "argwhere", "unique", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        indexed = name in ("__getitem__", "__setitem__") and has_mask(args[1])
        if name in self.VALUES + self.SHAPES or indexed:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def has_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, at_step: Callable[[StaticDecoding], None]) -> Iterator[None]:
    """Calls `at_step` in every step of static decoding."""
    step = StaticDecoding.step

    def seen(self: StaticDecoding) -> None:
        at_step(self)
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(StaticDecoding, "step", seen)
        yield


def test_the_host_waits_once_every_few_tokens(
    student32: Student, prompts: list[EmbeddedPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads_at_step: list[int] = []
    with HostReads() as reads, watched(monkeypatch, lambda _: reads_at_step.append(len(reads.seen))):
        engine(student32, "static", eos_token_ids=()).generate(prompts, 2, SEEDS)
    assert len(reads_at_step) == 29
    before = reads_at_step[0]
    checks = [count - before for count in reads_at_step]
    every = static_decoding.CHECK_EVERY
    assert checks == [step // every for step in range(29)]
    plain = HostReads()
    with plain:
        engine(student32, "plain", eos_token_ids=()).generate(prompts, 2, SEEDS)
    assert len(plain.seen) >= 29, "the count must see the host's reads"


def test_there_are_few_shapes(
    student32: Student, prompts: list[EmbeddedPrompt], short_caches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def note(decoding: StaticDecoding) -> None:
        layout = decoding.layout
        tensors = [*layout._keys, *layout._values, *layout._prefix.keys, layout._mask, decoding._token]
        shapes.append((*layout.shape, *(size for tensor in tensors for size in tensor.shape)))

    with watched(monkeypatch, note):
        engine(student32, "static", replace(CONFIG, max_completion_length=80)).generate(prompts, 8, SEEDS)
    distinct = list(dict.fromkeys(shapes))
    assert sum(a != b for a, b in pairwise(shapes)) == len(distinct) - 1, "no shape comes back"
    assert len(distinct) <= 1 + log2(4) + log2(8) + ceil(log2(79 / 7))
    prompt_sizes, row_sizes = ({shape[i] for shape in distinct} for i in (0, 1))
    assert len(prompt_sizes) > 1
    assert len(row_sizes) > 1
    assert prompt_sizes <= set(halvings(4))
    assert row_sizes <= set(halvings(8))
    assert halvings(12) == [12, 6, 3, 2, 1]


class Recording(torch.utils._python_dispatch.TorchDispatchMode):
    """A step as a CUDA graph keeps it: operations on tensors of fixed address; what the host computed is not redone."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host reads a tensor"
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            if any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns):
                continue  # a view of the same memory
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(as_tuple(out), as_tuple(again), strict=True):
                    old.copy_(new)


def as_tuple(out: Any) -> Sequence[Tensor]:
    return (out,) if isinstance(out, Tensor) else out


class Replayed:
    """Runs steps as `avrt.rollout.cuda_graphs.CudaGraphs` does, on the CPU."""

    def __init__(self) -> None:
        self.graph: Recording | None = None
        self.captures = self.replays = 0

    def run(self, step: Callable[[], None], times: int) -> None:
        for _ in range(times):
            if self.graph is not None:
                self.graph.replay()
                self.replays += 1
                continue
            with Recording() as self.graph:
                step()
            self.captures += 1

    def shapes_change(self) -> None:
        self.graph = None


def test_a_step_is_the_same_operations_on_the_same_tensors(
    student32: Student, prompts: list[EmbeddedPrompt], short_caches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded once per shape and replayed without Python, as CUDA graphs are."""
    plain = engine(student32, "plain").generate(prompts, GROUP, SEEDS)
    runner = Replayed()
    monkeypatch.setattr(builtin, "Uncaptured", lambda: runner)
    assert_same(engine(student32, "static").generate(prompts, GROUP, SEEDS), plain)
    assert runner.captures < runner.replays


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_step_compiles_as_one_graph(
    student32: Student, prompts: list[EmbeddedPrompt], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """A graph break, such as at a value that the host reads, would be an error."""

    class Compiled:
        def __init__(self) -> None:
            self.compiled: Callable[[], None] | None = None

        def run(self, step: Callable[[], None], times: int) -> None:
            if self.compiled is None:
                self.compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=False)
            for _ in range(times):
                self.compiled()

        def shapes_change(self) -> None:
            self.compiled = None

    config = replace(CONFIG, max_completion_length=12)
    plain = engine(student32, "plain", config).generate(prompts[:2], 2, SEEDS[:2])
    monkeypatch.setattr(builtin, "Uncaptured", Compiled)
    torch.compiler.reset()
    assert_same(engine(student32, "static", config).generate(prompts[:2], 2, SEEDS[:2]), plain)
    torch.compiler.reset()


def test_paths() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert [decoding_path("auto", device) for device in (cpu, gpu)] == ["plain", "graphs"]
    assert [decoding_path(name, gpu) for name in ("plain", "static", "graphs")] == ["plain", "static", "graphs"]
    with pytest.raises(ValueError, match=r"model\.sampling\.decoding.*graphs.*'cpu'.*auto"):
        decoding_path("graphs", cpu)
    with pytest.raises(ValueError, match=r"model\.sampling\.decoding.*'fast'"):
        decoding_path("fast", cpu)  # type: ignore[arg-type]


def test_graphs_are_refused_on_the_cpu_before_anything_runs(student32: Student) -> None:
    with pytest.raises(ValueError, match=r"model\.sampling\.decoding"):
        engine(student32, "graphs")
