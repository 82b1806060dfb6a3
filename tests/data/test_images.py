from __future__ import annotations

import torch

from trainer.data.images import is_image, scale_images


def test_uint8_frames_become_floats_from_0_to_1():
    batch = {
        "observation.image": torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16),
        "observation.images.top": torch.rand(2, 3, 4, 4),
        "cam": torch.full((2, 5, 3, 4, 4), 255, dtype=torch.uint8),
        "observation.image_is_pad": torch.zeros(1, 1, dtype=torch.bool),
        "mask": torch.ones(2, 3, 4, 4, dtype=torch.uint8),
        "task": ["look"],
    }
    scaled = scale_images(batch, named={"cam", "observation.image", "observation.images.top"})
    assert torch.equal(scaled["observation.image"].flatten(), torch.arange(256) / 255)
    assert torch.equal(scaled["cam"], torch.ones(2, 5, 3, 4, 4))
    for key in ("observation.images.top", "observation.image_is_pad", "mask", "task"):
        assert scaled[key] is batch[key]
    assert batch["observation.image"].dtype == torch.uint8


def test_what_is_an_image():
    frames = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert is_image("observation.images.left", frames)
    assert is_image("left", frames, named=["left"])
    assert not is_image("left", frames)
    assert not is_image("observation.images.left", frames, named=["left"])
    assert not is_image("observation.image_is_pad", frames[:, 0, 0])
    assert not is_image("observation.image", "text")
