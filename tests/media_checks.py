"""Checks shared by the tests of media files."""

from pathlib import Path

import pytest

from avrt.media.errors import MediaError, MediaReason
from avrt.media.reader import read_clip
from tests.media_files import number_of


def reason_of(path, read=read_clip, **options) -> MediaReason:
    with pytest.raises(MediaError) as caught:
        read(path, **options)
    assert caught.value.path == Path(path)
    assert caught.value.reason in MediaReason
    return caught.value.reason


def numbers(clip) -> list[int]:
    return [number_of(frame.numpy()) for frame in clip.frames]
