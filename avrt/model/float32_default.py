"""Float32 as torch's default dtype, independent of the precision plugin.

Under ``bf16-true`` Lightning makes bfloat16 the default around evaluation steps. A tensor made there without a dtype
keeps 8 bits: positions of frames are wrong by up to minutes, and spectrograms and pixel means are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_default() -> Iterator[None]:
    """Inside, tensors made without a dtype are float32; also usable as a decorator."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
