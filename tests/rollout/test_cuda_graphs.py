"""When steps are captured and replayed, with graphs that are recorded on the CPU; and a step's kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from avrt.model.shared_prompt import ATTENTION_NAME, PrefixCache
from avrt.model.token_logprobs import LanguageModel
from avrt.rollout import cuda_graphs
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.cuda_graphs import CudaGraphs
from avrt.rollout.engine import SamplingConfig
from avrt.rollout.static_decoding import StaticDecoding
from avrt.rollout.static_layout import StaticLayout
from tests.published_shapes import OMNI_7B

GPU = torch.device("cuda", 0)


class Journal:
    """A step that notes when it runs, is captured and is replayed, and may refuse to be captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: bool = False) -> None:
        self.events: list[str] = []

        def capture(step: Callable[[], None], pool: Any) -> Any:
            assert (step, pool) == (self.step, "pool")
            if refuses:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.events.append("capture")
            return SimpleNamespace(replay=lambda: self.events.append("replay"))

        monkeypatch.setattr(cuda_graphs, "capture", capture)
        stream = SimpleNamespace(synchronize=lambda: self.events.append("wait"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)

    def step(self) -> None:
        self.events.append("step")

    def graphs(self) -> CudaGraphs:
        graphs = CudaGraphs(GPU)
        graphs._memory = SimpleNamespace(pool="pool")  # type: ignore[assignment]
        return graphs


def test_each_shape_runs_once_as_it_is_and_is_captured_then(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(monkeypatch)
    graphs = journal.graphs()
    graphs.run(journal.step, 3)
    graphs.run(journal.step, 2)
    graphs.shapes_change()
    graphs.run(journal.step, 1)
    graphs.shapes_change()
    graphs.run(journal.step, 2)
    first = ["step", "capture", "replay", "replay", "replay", "replay", "wait"]
    assert journal.events == [*first, "step", "step", "capture", "replay"]


def test_a_step_that_cannot_be_captured_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(monkeypatch, refuses=True)
    with pytest.raises(ValueError, match=r"model\.sampling\.decoding.*not permitted.*static"):
        journal.graphs().run(journal.step, 4)
    assert journal.events == ["step"]


def test_the_steps_own_error_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Graph:
        def capture_begin(self, **kwargs: Any) -> None: ...

        def capture_end(self) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    def step() -> None:
        raise RuntimeError("the step's own error")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    with pytest.raises(RuntimeError, match="own error"):
        cuda_graphs.capture(step, "pool")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="previous error"):
        cuda_graphs.capture(lambda: None, "pool")  # type: ignore[arg-type]


class OnTheGpu(torch.utils._python_dispatch.TorchDispatchMode):
    """Every tensor of an operation is on the GPU: a copy from the host's memory cannot be captured."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        devices = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        assert devices <= {"cuda"}, f"{func} takes a tensor of the host"
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows no CUDA")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("even", [False, True])
def test_a_7b_step_runs_on_a_gpu_without_a_look_at_a_value(temperature: float, even: bool) -> None:
    """Fake tensors have the shapes and types of a GPU's and no values: reading one is an error."""
    prompts, group, longest, steps = 3, 4, 50, 100
    text: Any = OMNI_7B.config().text_config
    text.num_hidden_layers, text.layer_types = 2, ["full_attention"] * 2
    with FakeTensorMode(), torch.device(GPU):
        text_model = Qwen2_5OmniThinkerTextModel._from_config(text, dtype=torch.bfloat16).eval()
        text_model.set_attn_implementation(ATTENTION_NAME)
        head = torch.nn.Linear(OMNI_7B.hidden, OMNI_7B.vocabulary, bias=False, dtype=torch.bfloat16)
        banned = torch.zeros(OMNI_7B.vocabulary, dtype=torch.bool)
        config = SamplingConfig(steps, temperature)
        engine = TransformersRollout(LanguageModel(text_model, head), config, (1,), banned)
        shape = (prompts, text.num_key_value_heads, longest, 128)
        prefix = PrefixCache(*([torch.empty(shape, dtype=torch.bfloat16) for _ in range(2)] for _ in range(2)))
        valid = None if even else torch.ones(prompts, longest, dtype=torch.bool)
        layout = StaticLayout(prefix, valid, group, steps - 1)
        rows = prompts * group
        uniforms = torch.zeros(rows, steps, dtype=torch.float64)
        with torch.no_grad():
            decoding = StaticDecoding(engine, layout, torch.zeros(rows, dtype=torch.long), uniforms, torch.tensor([1]))
            with OnTheGpu():
                for _ in range(2):
                    decoding.step()
            layout.reserve(99)
            layout.keep([0, 2], [0, 1, 8, 11])
        assert layout.shape == (2, 2, 99)
        assert (decoding.tokens.device, decoding.logprobs.dtype) == (GPU, torch.float32)
