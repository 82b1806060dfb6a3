"""Crops, the ResNet with GroupNorm, spatial softmax, and modules over histories."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from model_constructor import random_source
from model_constructor.blocks.vision.keypoints import (
    GroupNormResNet,
    OverFrames,
    RandomCrop,
    SpatialSoftmax,
)

from trainer.utils.random import SampleRandom


def test_a_crop_is_the_middle_where_nothing_is_trained():
    image = torch.rand(2, 3, 10, 12)
    torch.testing.assert_close(RandomCrop(height=6, width=8).eval()(image), image[:, :, 2:8, 2:10])


def test_in_training_every_place_is_cut_out_and_belongs_to_its_sample():
    places = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij"))
    image = places.expand(400, 2, 5, 6)
    crop = RandomCrop(height=3, width=5)
    with random_source(SampleRandom(0)):
        cut = crop(image)
    assert cut.shape == (400, 2, 3, 5)
    corner = cut[:, :, :1, :1]
    torch.testing.assert_close(cut, corner + places[:, :3, :5])
    corners = {tuple(c) for c in corner.flatten(1).int().tolist()}
    assert corners == {(top, left) for top in range(3) for left in range(2)}
    halves = []
    for rank in range(2):
        with random_source(SampleRandom(0, rank=rank, world_size=2)):
            halves.append(crop(image[:200]))
    torch.testing.assert_close(torch.cat(halves), cut)


def test_a_picture_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match="a picture of 4 × 9 pixels is smaller than the crop of 5 × 5"):
        RandomCrop(height=5, width=5)(torch.zeros(1, 3, 4, 9))


def test_resnet_18_has_the_convolutions_of_the_paper():
    def stage(inputs, outputs, blocks):
        first = inputs * outputs * 9 + outputs * outputs * 9
        shortcut = inputs * outputs if inputs != outputs else 0
        norms = 2 * outputs * (2 * blocks + (1 if shortcut else 0))
        return first + shortcut + (blocks - 1) * 2 * outputs * outputs * 9 + norms

    def total(blocks):
        widths = [64, 128, 256, 512]
        stages = zip([64, *widths], widths, blocks, strict=False)
        return 3 * 64 * 49 + 2 * 64 + sum(stage(*one) for one in stages)

    # The whole networks with their 1000-way classifiers have 11,689,512 and 21,797,672.
    assert total((2, 2, 2, 2)) == 11_689_512 - 513_000
    assert total((3, 4, 6, 3)) == 21_797_672 - 513_000
    with torch.device("meta"):
        for depth, blocks in ((18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))):
            model = GroupNormResNet(depth=depth)
            assert sum(p.numel() for p in model.parameters()) == total(blocks)
            assert model(torch.zeros(2, 3, 84, 84)).shape == (2, 512, 3, 3)


@torch.no_grad()
def test_the_first_stage_is_that_of_plain_functions():
    torch.manual_seed(0)
    model = GroupNormResNet(width=16)
    p = dict(model.named_parameters())
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)

    def norm(name, x):
        return F.group_norm(x, x.shape[1] // 16, p[f"{name}.weight"], p[f"{name}.bias"])

    x = F.conv2d(image / 127.5 - 1, p["stem.0.weight"], stride=2, padding=3)
    x = F.max_pool2d(norm("stem.1", x).relu(), 3, 2, 1)
    for stage in range(4):
        for block in range(2):
            name, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            y = norm(f"{name}.norm1", F.conv2d(x, p[f"{name}.conv1.weight"], stride=stride, padding=1)).relu()
            y = norm(f"{name}.norm2", F.conv2d(y, p[f"{name}.conv2.weight"], padding=1))
            if stride == 2:
                x = norm(f"{name}.shortcut.1", F.conv2d(x, p[f"{name}.shortcut.0.weight"], stride=2))
            x = (y + x).relu()
    torch.testing.assert_close(model(image), x, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_spatial_softmax_finds_a_peak():
    block = SpatialSoftmax(channels=2, num_keypoints=2)
    block.projection.weight.copy_(torch.eye(2)[:, :, None, None] * 100)
    block.projection.bias.zero_()
    maps = torch.zeros(1, 2, 5, 9)
    maps[0, 0, 1, 8] = 1.0  # y: the second of five, x: the last of nine
    torch.testing.assert_close(block(maps), torch.tensor([[1.0, -0.5, 0.0, 0.0]]))


def test_a_history_is_seen_frame_by_frame():
    module = torch.nn.Linear(4, 3)
    frames = torch.rand(2, 5, 4)
    seen = OverFrames(module=module)(frames)
    torch.testing.assert_close(seen[:, 3], module(frames[:, 3]))
