"""The blocks of state policies against plain formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_constructor.blocks.encodings import geometric_frequencies, sine_cosine
from model_constructor.blocks.state import TIME_FREQUENCIES, FlowVelocityMLP, PlanarKeypoints


def test_keypoints_are_the_rotated_and_moved_points():
    points = [[-60, 0], [60, 0], [15, 120]]
    block = PlanarKeypoints(points=points, center=[256, 200], scale=128)
    pose = torch.tensor(np.random.default_rng(0).uniform(-3, 300, (5, 2, 3)), dtype=torch.float32)

    got = block(pose).numpy()

    assert got.shape == (5, 2, 6)
    for b in range(5):
        for t in range(2):
            x, y, angle = pose[b, t].double().tolist()
            for n, (px, py) in enumerate(points):
                world = (
                    x + px * math.cos(angle) - py * math.sin(angle),
                    y + px * math.sin(angle) + py * math.cos(angle),
                )
                np.testing.assert_allclose(got[b, t, 2 * n], (world[0] - 256) / 128, atol=1e-5)
                np.testing.assert_allclose(got[b, t, 2 * n + 1], (world[1] - 200) / 128, atol=1e-5)


def test_keypoints_leave_nothing_in_the_state_dict():
    assert not PlanarKeypoints(points=[[0, 1]], center=0, scale=1).state_dict()


@pytest.mark.parametrize(
    ("points", "center", "scale", "word"),
    [
        ([], 0, 1, "points"),
        ([[1, 2, 3]], 0, 1, "points"),
        ([[1, 2]], [0], 1, "center"),
        ([[1, 2]], 0, 0, "scale"),
    ],
)
def test_keypoints_refuse_what_makes_no_sense(points, center, scale, word):
    with pytest.raises(ValueError, match=word):
        PlanarKeypoints(points=points, center=center, scale=scale)


def velocity_mlp(**changes):
    sizes = {"action_dim": 3, "action_horizon": 5, "condition_dim": 7, "width": 16, "num_blocks": 2}
    return FlowVelocityMLP(**{**sizes, "time_dim": 12, **changes})


def test_velocity_follows_the_formula():
    torch.manual_seed(0)
    model = velocity_mlp()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    time, noise, condition = torch.rand(4), torch.randn(4, 5, 3), torch.randn(4, 7)
    p = dict(model.named_parameters())

    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    f = torch.tensor([1000 ** (k / 31) for k in range(32)])
    embedding = torch.cat([torch.sin(time[:, None] * f), torch.cos(time[:, None] * f)], 1)
    embedding = linear("time_mlp.2", F.silu(linear("time_mlp.0", embedding)))
    c = F.silu(linear("condition_projection", condition) + embedding)
    x = linear("input_layer", torch.cat([noise.reshape(4, 15), condition], 1))
    for i in range(2):
        shift, scale, gate = linear(f"blocks.{i}.modulation", c).split(16, 1)
        normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        hidden = F.silu(linear(f"blocks.{i}.up", normed * (1 + scale) + shift))
        x = x + gate * linear(f"blocks.{i}.down", hidden)
    expected = linear("output_layer", F.layer_norm(x, (16,), p["output_norm.weight"], p["output_norm.bias"]))

    torch.testing.assert_close(model(time, noise, condition), expected.reshape(4, 5, 3), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(time[:, None], noise, condition), model(time, noise, condition))


def test_blocks_start_as_the_identity():
    model = velocity_mlp()
    x, c = torch.randn(2, 16), torch.randn(2, 12)
    for block in model.blocks:
        torch.testing.assert_close(block(x, c), x)


def test_the_time_embedding_moves():
    times = torch.linspace(0, 1, 11)
    embedding = sine_cosine(times, geometric_frequencies(TIME_FREQUENCIES, 1.0, 1000.0, like=times))
    distance = (embedding[1:] - embedding[:-1]).norm(dim=1)
    assert distance.min() > 1.0  # of a vector of length sqrt(32)


def test_sizes_below_one_are_named():
    with pytest.raises(ValueError, match="'width' must be at least 1"):
        velocity_mlp(width=0)


def test_it_learns_under_bfloat16_autocast():
    torch.manual_seed(0)
    model = velocity_mlp(width=32)
    noise, condition, time = torch.randn(64, 5, 3), torch.randn(64, 7), torch.rand(64)
    target = torch.tanh(condition[:, :3])[:, None] * (1 - time)[:, None, None] - noise
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            velocity = model(time, noise, condition)
        loss = (velocity.float() - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@torch.no_grad()
def test_half_precision_weights_keep_the_time():
    torch.manual_seed(0)
    model = velocity_mlp(width=32)
    for block in model.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    noise, condition, time = torch.randn(8, 5, 3), torch.randn(8, 7), torch.rand(8)
    expected = model(time, noise, condition)
    got = model.bfloat16()(time, noise.bfloat16(), condition.bfloat16())
    assert (got.float() - expected).norm() < 0.03 * expected.norm()
