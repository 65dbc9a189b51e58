"""What a data worker hands over arrives as it was, in one piece of memory."""

from __future__ import annotations

from itertools import pairwise

import torch

from avrt.model.encoding import Prompt
from avrt.sample import Clip, Sample
from datamodules.handover import ALIGNMENT, Parcel, pack, unpack
from datamodules.streaming import Item


def items() -> list[Item]:
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
    return [Item(prompt, torch.tensor(7)), Item(prompt), Item(prompt, torch.tensor([True, False, True]))]


def tensors(item: Item) -> list[torch.Tensor]:
    prompt, clip = item.prompt, item.prompt.sample.clip
    assert clip is not None
    found = (clip.frames, clip.waveform, prompt.input_ids, prompt.frames, prompt.video_grid_thw, item.target)
    return [x for x in (*found, prompt.input_features) if x is not None]


def test_everything_arrives_as_it_was() -> None:
    before = items()
    after = unpack(pack(before))
    assert len(after) == len(before)
    for a, b in zip(after, before, strict=True):
        assert len(tensors(a)) == len(tensors(b))
        for x, y in zip(tensors(a), tensors(b), strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert torch.equal(x, y)
        assert (a.target is None) == (b.target is None)
        assert (a.prompt.sample.id, a.prompt.second_per_grid, a.prompt.image_grid_thw) == ("a", 2.5, None)


def test_all_tensors_lie_in_one_memory() -> None:
    found = [x for item in unpack(pack(items())) for x in tensors(item)]
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


def test_a_tensor_that_occurs_twice_travels_once() -> None:
    shared = torch.arange(1000)
    parcel = pack([shared, {"again": shared}, torch.arange(1000)])
    assert isinstance(parcel, Parcel)
    assert parcel.memory.nbytes == 2 * (8000 + -8000 % ALIGNMENT)
    one, other, equal = unpack(parcel)
    assert one.data_ptr() == other["again"].data_ptr() != equal.data_ptr()
    assert torch.equal(one, equal)


def test_what_arrives_holds_no_shared_memory() -> None:
    parcel = pack(items())
    assert isinstance(parcel, Parcel)
    assert parcel.memory.is_shared()
    assert not any(x.is_shared() for item in unpack(parcel) for x in tensors(item))
