"""The reference policy of GRPO's KL term, and where its weights are kept."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from avrt.model.lora import adapters_off
from avrt.model.token_logprobs import LanguageModel


class ReferencePolicy(abc.ABC):
    """The language model as it was when the run began. It is not part of the trained module: neither checkpoints nor
    the optimizer see it."""

    @abc.abstractmethod
    def on(self, device: torch.device) -> AbstractContextManager[LanguageModel]:
        """The model, ready to compute on `device` inside the context."""


class FrozenCopy(ReferencePolicy):
    """A second language model; the encoders are frozen and shared.

    Args:
        model: the copy, where it is kept.
        in_host_memory: bring the weights to the device only while they are used, between rollout and training, when
            neither the rollout's cache nor activations take space there. Costs one transfer per rollout.
    """

    def __init__(self, model: LanguageModel, in_host_memory: bool = False) -> None:
        self.model = model
        self.in_host_memory = in_host_memory
        self._parked: list[tuple[Tensor, Tensor]] | None = None

    @contextmanager
    def on(self, device: torch.device) -> Iterator[LanguageModel]:
        if self.in_host_memory:
            parked = self._park()
            for tensor, kept in parked:
                tensor.data = kept.to(device, non_blocking=True)
            try:
                yield self.model
            finally:
                for tensor, kept in parked:
                    tensor.data = kept
        else:
            self.model.to(device)
            yield self.model

    def _park(self) -> list[tuple[Tensor, Tensor]]:
        """Every weight with its copy in host memory, pinned where there is a GPU to send it to."""
        if self._parked is None:
            tensors: dict[int, Tensor] = {}
            for module in (self.model.text_model, self.model.head):
                for tensor in (*module.parameters(), *module.buffers()):
                    tensors[id(tensor)] = tensor
            pin = torch.cuda.is_available()
            self._parked = [(t, t.data.cpu().pin_memory() if pin else t.data.cpu()) for t in tensors.values()]
        return self._parked


class AdaptersOff(ReferencePolicy):
    """Under LoRA: the policy itself without its adapters."""

    def __init__(self, policy: LanguageModel) -> None:
        self.policy = policy

    @contextmanager
    def on(self, device: torch.device) -> Iterator[LanguageModel]:
        with adapters_off(self.policy.text_model):
            yield self.policy
