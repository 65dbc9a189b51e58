"""Products of half-precision operands against float64: as exact as float32, whatever autocast says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from avrt.model import wide_products
from avrt.model.chunked_logprobs import chunked_logprobs
from avrt.model.token_logprobs import LanguageModel
from avrt.model.wide_products import wide_bmm, wide_mm
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import SamplingConfig

Product = Callable[[Tensor, Tensor], Tensor]


def operands(dtype: torch.dtype, *leading: int, tall: bool = False) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    m, k, n = (70, 256, 9) if tall else (9, 256, 70)
    a, b = torch.randn(*leading, m, k, generator=g), torch.randn(*leading, k, n, generator=g)
    return a.to(dtype), b.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("chunk", [2**24, 700, 1])
@pytest.mark.parametrize(("product", "leading"), [(wide_mm, ()), (wide_bmm, (3,)), (wide_bmm, (2, 3))])
@pytest.mark.parametrize("tall", [False, True])
def test_the_result_is_not_rounded(
    dtype: torch.dtype,
    autocast: bool,
    chunk: int,
    product: Product,
    leading: tuple[int, ...],
    tall: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wide_products, "CHUNK_ELEMENTS", chunk)
    a, b = operands(dtype, *leading, tall=tall)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = product(a, b)
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    error = (ours.double() - a.double() @ b.double()).abs().max()
    rounding = (ours.bfloat16().double() - ours.double()).abs().max()
    assert error < 1e-4
    assert error < rounding / 500


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows no CUDA")
def test_gpus_multiply_without_converting_operands() -> None:
    """Fake tensors run what is taken on NVIDIA GPUs, without one."""
    with FakeTensorMode():
        a = torch.empty(2, 3, 5, 16, dtype=torch.bfloat16, device="cuda:0")
        b = torch.empty(2, 3, 16, 7, dtype=torch.bfloat16, device="cuda:0")
        with Recorder() as seen:
            assert (wide_mm(a[0, 0], b[0, 0]).shape, wide_bmm(a, b).shape) == ((5, 7), (2, 3, 5, 7))
            assert (wide_mm(a[0, 0], b[0, 0]).dtype, wide_bmm(a, b).dtype) == (torch.float32,) * 2
    assert {"aten.mm.dtype", "aten.bmm.dtype"} <= seen.operators
    assert not any("_to_copy" in name for name in seen.operators)


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.operators.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows", [3, 50])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sampler_and_scorer_agree_on_the_same_hidden_states(rows: int, autocast: bool, dtype: torch.dtype) -> None:
    """With logits of some tens, which bfloat16 rounds by a tenth; both below and above the rows of a decoding step."""
    g = torch.Generator().manual_seed(0)
    hidden = (torch.randn(rows, 64, generator=g) * 2).to(dtype)
    head = torch.nn.Linear(64, 500, bias=False, dtype=dtype)
    with torch.no_grad():
        head.weight.copy_(torch.randn(500, 64, generator=g))
    banned = torch.arange(500) >= 490
    config = SamplingConfig(max_completion_length=1, temperature=0.7)
    engine = TransformersRollout(LanguageModel(None, head), config, (1,), banned)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        tokens, sampled = engine.sample(hidden, torch.rand(rows, dtype=torch.float64, generator=g))
        scored, _ = chunked_logprobs(hidden, head.weight, tokens, temperature=0.7, banned=banned, chunk_rows=7)
    torch.testing.assert_close(sampled, scored, rtol=0, atol=2e-5)
    narrow = torch.bfloat16 if autocast else dtype
    logits = hidden.to(narrow).double() @ head.weight.to(narrow).double().T / 0.7
    true = logits.masked_fill(banned, -torch.inf).log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(scored.double(), true, rtol=0, atol=2e-5)
