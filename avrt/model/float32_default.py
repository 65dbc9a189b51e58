"""Float32 as torch's default dtype, whatever a precision plugin has set it to.

Under ``bf16-true`` Lightning makes bfloat16 the default around evaluation steps. A tensor made there without a dtype
keeps 8 bits: frames move in time by up to minutes, and spectrograms and pixel means are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_default() -> Iterator[None]:
    """Tensors made inside without a dtype are float32; also a decorator."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
