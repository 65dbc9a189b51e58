"""Memory and FLOPs of one micro-batch of training: the real code, run on tensors that have shapes but no data.

The forward and backward pass are the project's own, so the figures follow every change of them; a test compares them
with torch's allocator in a real step.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from avrt.families.registry import family_of_config
from avrt.grpo.loss import LossConfig, Normalizer, grpo_loss
from avrt.model.lora import LoRAConfig, adapters_off, inject
from avrt.model.shared_prompt import ATTENTION_NAME
from avrt.model.student import freeze_encoders
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel, TokenLogprobs, token_logprobs
from avrt.planning.settings import TEXT_TOKENS, RunSettings
from avrt.planning.shapes import meta_thinker


@dataclass(frozen=True)
class StepTrace:
    """Memory of one micro-batch on one device.

    Attributes:
        activation_bytes: peak of forward and backward beside weights and gradients.
        trained: number of parameters that get a gradient.
        sizes: elements of each weight that gets one.
    """

    activation_bytes: int
    trained: int
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of one micro-batch on one device.

    Attributes:
        forward: forward pass without gradient (as for the reference).
        step: forward, backward and recomputation.
    """

    forward: int
    step: int


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of live tensors that are created inside, and their peak.

    Args:
        before: existing tensors; views of them are not new memory.
    """

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._before = list(before)  # kept alive, so that no new storage reuses an address
        self._known: dict[int, int] = {tensor.untyped_storage()._cdata: 0 for tensor in self._before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self._see(value.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


def trace_memory(config: Any, settings: RunSettings) -> StepTrace:
    """Trace the micro-batch with the longest prompts and responses that the settings allow."""
    with FakeTensorMode():
        batch = _MicroBatch(config, settings, settings.completion_tokens)
        trained = {id(p): p.numel() for p in batch.parameters if p.requires_grad}
        # Gradients are planned separately: each is freed as soon as it is complete, as under ZeRO-2, or added to an
        # existing one when micro-batches accumulate.
        for parameter in batch.parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        # FLOPs are counted in another run: that counter would keep tensors alive.
        with PeakMemory(batch.tensors()) as memory:
            batch.loss().backward()
    return StepTrace(memory.peak, sum(trained.values()), tuple(trained.values()))


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def count_flops(config: Any, settings: RunSettings) -> StepFlops:
    """Count the FLOPs of a micro-batch with responses of mean length.

    Where all layers are equal, models of one and of two layers tell what any number of them costs.
    """
    shape = family_of_config(config).language_shape(config)
    if not shape.equal_layers:
        return _count_flops(config, settings)
    layers = shape.layers
    few = [min(layers, count) for count in (1, 2)]
    first, second = (_count_flops(_with_layers(config, count), settings) for count in few)

    def whole(one: int, two: int) -> int:
        return one + (layers - 1) * (two - one)

    return StepFlops(whole(first.forward, second.forward), whole(first.step, second.step))


def _with_layers(config: Any, layers: int) -> Any:
    few = copy.deepcopy(config)
    few.text_config.num_hidden_layers = layers
    if getattr(few.text_config, "layer_types", None):
        few.text_config.layer_types = few.text_config.layer_types[:layers]
    return few


def _count_flops(config: Any, settings: RunSettings) -> StepFlops:
    with FakeTensorMode():
        batch = _MicroBatch(config, settings, settings.mean_completion_tokens)
        with torch.no_grad(), adapters_off(batch.model.text_model):  # as the reference runs
            forward = _flops(batch.score)
        return StepFlops(forward, _flops(lambda: batch.loss().backward()))


class _MicroBatch:
    """A micro-batch of equal prompts and responses, and the language model that trains on it.

    Visual features that further layers read are left out: adding them keeps nothing for the backward pass, and where
    they are added depends on data, which there is none of.
    """

    def __init__(self, config: Any, settings: RunSettings, length: int) -> None:
        dtype = torch.bfloat16 if settings.weight_bytes == 2 else torch.float32
        self.settings = settings
        self.model = _language_model(config, dtype, settings.gradient_checkpointing, settings.lora)
        self.parameters = [*self.model.text_model.parameters(), self.model.head_weight]
        media = max(0, settings.prompt_tokens - TEXT_TOKENS)
        self.prompts = [
            EmbeddedPrompt(
                input_ids=torch.zeros(settings.prompt_tokens, dtype=torch.long),
                position_ids=torch.arange(settings.prompt_tokens).expand(3, -1),
                media_positions=torch.arange(4, 4 + media),
                media_features=torch.zeros(media, self.model.head.in_features, dtype=dtype),
            )
            for _ in range(settings.batch_size)
        ]
        self.responses = [
            [torch.zeros(length, dtype=torch.long) for _ in range(settings.num_generations)] for _ in self.prompts
        ]

    def tensors(self) -> list[torch.Tensor]:
        """All tensors that exist before the step."""
        inputs = [tensor for prompt in self.prompts for tensor in prompt.tensors.values()]
        responses = [tensor for group in self.responses for tensor in group]
        return [*self.parameters, *self.model.text_model.buffers(), *inputs, *responses]

    def score(self) -> TokenLogprobs:
        return token_logprobs(self.model, self.prompts, self.responses, chunk_rows=self.settings.chunk_rows)

    def loss(self) -> torch.Tensor:
        scores = self.score()
        if self.settings.task == "sft":
            return -(scores.logprobs * scores.mask).sum()
        responses, tokens = scores.logprobs.shape[0], scores.logprobs.numel()
        return grpo_loss(
            scores.logprobs,
            scores.mask,
            torch.zeros(responses),
            LossConfig(beta=0.0 if self.settings.reference == "none" else 0.01),
            Normalizer(responses, tokens, float(tokens), self.settings.completion_tokens),
            ref_logprobs=scores.logprobs.detach(),
            entropies=scores.entropies,
        ).loss


def _language_model(config: Any, dtype: torch.dtype, checkpointing: bool, lora: LoRAConfig | None) -> LanguageModel:
    small: Any = copy.deepcopy(config)
    small.vision_config.depth = small.audio_config.encoder_layers = 1  # frozen, and not part of the step
    thinker = meta_thinker(small, dtype)
    family_of_config(config).prepare(thinker)
    freeze_encoders(thinker)
    text_model = thinker.model.language_model.train()
    text_model.set_attn_implementation(ATTENTION_NAME)
    if checkpointing:
        text_model.activation_checkpointing_enable({"use_reentrant": False})
    if lora is not None:
        thinker.requires_grad_(False)
        with torch.device("meta"):
            inject(text_model, lora, family_of_config(config))
    for module in (text_model, thinker.lm_head):
        _put_on_cpu(module, dtype)
    return LanguageModel(text_model, thinker.lm_head)


def _put_on_cpu(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Replace every tensor on the meta device by one on the CPU; `Module.to_empty` cannot create fake ones.

    Adapters take the weights' type, as peft does with real weights.
    """
    parameters: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                if old not in parameters:
                    new = torch.empty_like(old, dtype=dtype, device="cpu")
                    parameters[old] = torch.nn.Parameter(new, old.requires_grad)
                module._parameters[name] = parameters[old]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


def _flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        run()
    return counter.get_total_flops()


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Two products of [t, D] x [D, s] and [t, s] x [s, D] per batch row and head."""
    batch, heads, rows, size = query
    return 2 * batch * heads * rows * key[2] * (size + value[3])


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """The probabilities once more, and the gradients of queries, keys, values and probabilities: five products."""
    batch, heads, rows, size = query
    return 2 * batch * heads * rows * key[2] * (3 * size + 2 * value[3])


def _grouped_product(rows: Any, matrices: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Every row with one of several matrices: [m, k] x [experts, k, n], or a gradient [m, k] x [k, n] in parts."""
    return 2 * rows[-2] * rows[-1] * matrices[-1]


UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten._grouped_mm: _grouped_product,
}
"""torch counts attention kernels of GPUs only, and no grouped products; fake tensors run through the CPU's, which
do the same work."""
