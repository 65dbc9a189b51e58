"""Students for the tests of the GRPO core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.student import Student
from tests.tiny_student import load_plain, load_student, widen_norms


@pytest.fixture(scope="session")
def student64(layout_folder: Path) -> Student:
    """The tiny student in float64, norms included. Tests must leave its weights alone."""
    student = load_student(layout_folder, dtype="float64")
    widen_norms(student.thinker.model.language_model)
    return student


@pytest.fixture(scope="session")
def student32(layout_folder: Path) -> Student:
    """The tiny student in float32. Tests must leave its weights alone."""
    return load_student(layout_folder, dtype="float32")


@pytest.fixture(scope="session")
def plain64(layout_folder: Path) -> Any:
    """The same weights as plain transformers loads them, float64, norms included."""
    model = load_plain(layout_folder, torch.float64)
    widen_norms(model.model.language_model)
    return model


@pytest.fixture(scope="session")
def plain32(layout_folder: Path) -> Any:
    """The same weights as plain transformers loads them, float32."""
    return load_plain(layout_folder, torch.float32)
