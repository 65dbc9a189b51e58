"""Several images and audio clips as one."""

import pytest
import torch

from avrt.media.errors import MediaError, MediaReason
from avrt.media.joining import MARGIN, one_after_another, side_by_side
from avrt.sample import SAMPLING_RATE, Clip


def image(height: int, width: int, value: int) -> Clip:
    return Clip(frames=torch.full((1, 3, height, width), value, dtype=torch.uint8), timestamps=(0.0,), is_image=True)


def test_images_stand_side_by_side_in_their_order():
    joined = side_by_side([image(20, 30, 100), image(40, 50, 200)], max_pixels=10_000)
    assert joined.is_image
    assert (joined.width, joined.height) == (30 + MARGIN + 50, 40)
    frame = joined.frames[0]
    assert frame.shape == (3, 40, 90)
    assert (frame[:, 10:30, :30] == 100).all()  # centered in height
    assert (frame[:, :10, :30] == 0).all()
    assert (frame[:, :, 30 : 30 + MARGIN] == 0).all()
    assert (frame[:, :, 30 + MARGIN :] == 200).all()


def test_the_joined_image_is_bounded():
    joined = side_by_side([image(400, 400, 9)] * 4, max_pixels=100_000)
    assert joined.frames.shape[2] * joined.frames.shape[3] <= 100_000
    with pytest.raises(MediaError) as caught:
        side_by_side([image(2, 20_000, 0), image(20_000, 2, 0)], max_pixels=100_000)
    assert caught.value.reason is MediaReason.TOO_LARGE


def test_audio_clips_follow_one_another_with_a_second_of_silence():
    first, second = torch.full((100,), 0.5), torch.full((50,), -0.5)
    joined = one_after_another([Clip(frames=None, waveform=first), Clip(frames=None, waveform=second)])
    assert torch.equal(joined, torch.cat([first, torch.zeros(SAMPLING_RATE), second]))
    assert torch.equal(one_after_another([Clip(frames=None, waveform=first)]), first)
