"""Where the reference policy's weights are: on its device from the beginning, or in host memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from avrt.model.reference import FrozenCopy
from avrt.model.student import Student
from avrt.planning.dry_run import PeakMemory
from tests.lightning_modules.training import grpo_module
from tests.tiny_student import load_student, save_student

META = torch.device("meta")
"""A device whose tensors take no host memory, in place of a GPU."""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return load_student(save_student(tmp_path_factory.mktemp("student")))


def tensors(model: Any) -> list[torch.Tensor]:
    return [t for m in (model.text_model, model.head) for t in (*m.parameters(), *m.buffers())]


def host_bytes_of(work: Any, student: Student) -> tuple[Any, int]:
    """The result of `work`, and the most bytes of host memory that its new tensors took."""
    memory = PeakMemory([*student.parameters(), *student.buffers()])
    see = memory._see
    memory._see = lambda storage: see(storage) if storage.device.type == "cpu" else None  # type: ignore[method-assign]
    with memory:
        result = work()
    return result, memory.peak


def test_a_copy_for_a_device_takes_no_host_memory(student: Student) -> None:
    reference, peak = host_bytes_of(lambda: student.copy_language_model(META), student)
    assert {t.device for t in tensors(reference)} == {META}
    assert peak == 0
    weights = sum(p.nbytes for p in student.parameters() if p.requires_grad)
    _, on_host = host_bytes_of(student.copy_language_model, student)
    assert on_host >= weights  # the measure sees a copy in host memory


def test_a_tied_head_stays_tied(student: Student) -> None:
    policy = student.language_model
    own = policy.head.weight
    policy.head.weight = policy.text_model.embed_tokens.weight
    try:
        copied = student.copy_language_model()
    finally:
        policy.head.weight = own
    assert copied.head.weight is copied.text_model.embed_tokens.weight
    assert copied.head.weight is not policy.text_model.embed_tokens.weight
    assert student.copy_language_model().head_weight.data_ptr() != own.data_ptr()


@pytest.mark.parametrize(("setting", "device"), [("same", META), ("cpu", torch.device("cpu"))])
def test_grpo_loads_it_where_it_is_kept(student: Student, tmp_path: Path, setting: str, device: torch.device) -> None:
    """At set-up, before DeepSpeed moves the policy."""
    module = grpo_module(tmp_path, reference_device=setting)
    strategy, state = SimpleNamespace(root_device=META), SimpleNamespace(fn="fit")
    module._trainer = SimpleNamespace(strategy=strategy, state=state)  # type: ignore[assignment]
    module.student = student
    module.student_loaded()
    assert isinstance(module.reference, FrozenCopy)
    assert {t.device for t in tensors(module.reference.model)} == {device}
    assert student.device.type == "cpu"
