"""Images: rotation, transparency, limits, and damaged files."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avrt.media.errors import MediaReason
from avrt.media.reader import read_image
from avrt.media.video import target_size
from tests.media_checks import reason_of


class TestImages:
    def test_upright_after_exif(self, tmp_path):
        image = np.zeros((40, 60, 3), np.uint8)
        image[:20] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned a quarter clockwise
        Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
        clip = read_image(tmp_path / "a.png")
        assert clip.is_image
        assert (clip.timestamps, clip.fps, clip.waveform) == ((0.0,), None, None)
        assert (clip.width, clip.height) == (40, 60)
        np.testing.assert_array_equal(clip.frames[0].numpy(), np.rot90(image, -1).transpose(2, 0, 1))

    @pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "RGBA", "LA"])
    def test_modes(self, tmp_path, mode):
        name = "a.jpg" if mode == "CMYK" else "a.png"
        Image.new("RGB", (30, 20), (255, 255, 255)).convert(mode).save(tmp_path / name)
        frames = read_image(tmp_path / name).frames
        assert frames.shape == (1, 3, 20, 30)
        assert frames.min() >= 254

    def test_transparent_is_white(self, tmp_path):
        Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").frames.min() == 255

    def test_large_is_scaled(self, tmp_path):
        Image.new("RGB", (4000, 3000)).save(tmp_path / "a.png")
        clip = read_image(tmp_path / "a.png")
        assert clip.frames.shape[2:] == target_size(4000, 3000, 768 * 28 * 28)
        assert (clip.width, clip.height) == (4000, 3000)

    def test_damaged(self, tmp_path):
        rng = np.random.default_rng(0)
        for name in ("a.png", "a.jpg"):
            Image.fromarray(rng.integers(0, 255, (50, 50, 3), dtype=np.uint8)).save(tmp_path / name)
            content = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(content[: len(content) // 2])
            assert reason_of(tmp_path / name, read_image) == MediaReason.CORRUPT_IMAGE
        (tmp_path / "b.png").write_bytes(b"not an image")
        assert reason_of(tmp_path / "b.png", read_image) == MediaReason.UNREADABLE
        (tmp_path / "c.png").write_bytes(b"")
        assert reason_of(tmp_path / "c.png", read_image) == MediaReason.EMPTY_FILE

    def test_every_reason_is_explained(self):
        source = Path(sys.modules[MediaReason.__module__].__file__).read_text()
        for reason in MediaReason:
            assert re.search(rf'{reason.name} = "{reason.value}"\n    """', source)
