"""Items from a data worker arrive unchanged, in one block of memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch

from avrt.model.encoding import Prompt
from avrt.sample import Clip, Sample
from datamodules.shared_memory import ALIGNMENT, Packed, pack, unpack


def prompts() -> list[Prompt]:
    frames = torch.arange(2 * 3 * 5 * 7, dtype=torch.uint8).view(2, 3, 5, 7)
    clip = Clip(frames, (0.0, 1.25), 0.8, torch.linspace(-1, 1, 11), 2.5, 7, 5)
    sample = Sample("a", "What?", ("x", "y"), 1, clip=clip)
    prompt = Prompt(
        sample,
        input_ids=torch.arange(9),
        frames=torch.rand(4, 6).T,  # not contiguous
        video_grid_thw=torch.tensor([[1, 2, 2]]),
        second_per_grid=2.5,
        input_features=torch.rand(3, 0, dtype=torch.float64),  # empty
    )
    return [
        replace(prompt, target=torch.tensor(7)),
        prompt,
        replace(prompt, target=torch.tensor([True, False, True])),
    ]


def tensors(prompt: Prompt) -> list[torch.Tensor]:
    clip = prompt.sample.clip
    assert clip is not None
    found = (clip.frames, clip.waveform, prompt.input_ids, prompt.frames, prompt.video_grid_thw, prompt.target)
    return [x for x in (*found, prompt.input_features) if x is not None]


def test_everything_arrives_unchanged() -> None:
    before = prompts()
    after = unpack(pack(before))
    assert len(after) == len(before)
    for a, b in zip(after, before, strict=True):
        assert len(tensors(a)) == len(tensors(b))
        for x, y in zip(tensors(a), tensors(b), strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert torch.equal(x, y)
        assert (a.target is None) == (b.target is None)
        assert (a.sample.id, a.second_per_grid, a.image_grid_thw) == ("a", 2.5, None)


def test_all_tensors_share_one_block() -> None:
    found = [x for prompt in unpack(pack(prompts())) for x in tensors(prompt)]
    assert len({x.untyped_storage().data_ptr() for x in found}) == 1
    places = [(x.storage_offset() * x.itemsize, x.nbytes) for x in found if x.nbytes]
    assert all(start % ALIGNMENT == 0 for start, _ in places)
    places = sorted(set(places))
    assert all(start + size <= following for (start, size), (following, _) in pairwise(places))


def test_an_error_arrives_too() -> None:
    error = ValueError("sample 'a' is broken")
    error.add_note("In a data worker")
    (again,) = unpack(pack([error]))
    assert isinstance(again, ValueError)
    assert str(again) == str(error)
    assert again.__notes__ == error.__notes__


def test_a_tensor_that_occurs_twice_is_copied_once() -> None:
    shared = torch.arange(1000)
    packed = pack([shared, {"again": shared}, torch.arange(1000)])
    assert isinstance(packed, Packed)
    assert packed.memory.nbytes == 2 * (8000 + -8000 % ALIGNMENT)
    one, other, equal = unpack(packed)
    assert one.data_ptr() == other["again"].data_ptr() != equal.data_ptr()
    assert torch.equal(one, equal)


def test_the_result_holds_no_shared_memory() -> None:
    packed = pack(prompts())
    assert isinstance(packed, Packed)
    assert packed.memory.is_shared()
    assert not any(x.is_shared() for prompt in unpack(packed) for x in tensors(prompt))
