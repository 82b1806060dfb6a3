"""Diffusion Policy's networks against plain torch functions, and their sizes against arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from model_constructor.blocks.diffusion import ConditionalUNet1D, DiffusionTransformer


def numbers(model):
    return sum(p.numel() for p in model.parameters())


def step_embedding(timestep, channels):
    half = channels // 2
    f = torch.exp(-math.log(10000.0) * torch.arange(half) / (half - 1))
    angle = timestep[:, None] * f
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("film_scale", [True, False])
def test_the_unet_is_that_of_plain_functions(film_scale):
    torch.manual_seed(0)
    model = ConditionalUNet1D(
        action_dim=3,
        condition_dim=5,
        down_dims=(8, 16, 24),
        kernel_size=3,
        n_groups=4,
        time_dim=6,
        film_scale=film_scale,
    )
    p = dict(model.named_parameters())
    timestep = torch.tensor([0, 42, 99])
    sample, condition = torch.randn(3, 8, 3), torch.randn(3, 5)

    def linear(name, x):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def conv_block(name, x):
        x = F.conv1d(x, p[f"{name}.0.weight"], p[f"{name}.0.bias"], padding=1)
        return F.mish(F.group_norm(x, 4, p[f"{name}.1.weight"], p[f"{name}.1.bias"]))

    seen = linear("time_mlp.2", F.mish(linear("time_mlp.0", step_embedding(timestep, 6))))
    seen = torch.cat([seen, condition], dim=1)

    def residual(name, x):
        hidden, film = conv_block(f"{name}.first", x), linear(f"{name}.film.1", F.mish(seen))[..., None]
        if film_scale:
            scale, shift = film[:, : film.shape[1] // 2], film[:, film.shape[1] // 2 :]
            hidden = scale * hidden + shift
        else:
            hidden = hidden + film
        hidden = conv_block(f"{name}.second", hidden)
        if f"{name}.shortcut.weight" in p:
            x = F.conv1d(x, p[f"{name}.shortcut.weight"], p[f"{name}.shortcut.bias"])
        return hidden + x

    def pair(name, x):
        return residual(f"{name}.second", residual(f"{name}.first", x))

    x, kept = sample.mT, []
    for level in range(3):
        x = pair(f"down.{level}", x)
        kept.append(x)
        if level < 2:
            name = f"downsample.{level}"
            x = F.conv1d(x, p[f"{name}.weight"], p[f"{name}.bias"], stride=2, padding=1)
    x = pair("middle", x)
    for level in range(2):
        x = torch.cat([x, kept[2 - level]], dim=1)
        x = pair(f"up.{level}", x)
        name = f"upsample.{level}"
        x = F.conv_transpose1d(x, p[f"{name}.weight"], p[f"{name}.bias"], stride=2, padding=1)
    x = F.conv1d(conv_block("output.0", x), p["output.1.weight"], p["output.1.bias"])

    torch.testing.assert_close(model(timestep, sample, condition), x.mT, atol=1e-5, rtol=1e-5)


def test_the_published_unet_has_its_number_of_parameters():
    def conv(inputs, outputs, kernel):
        return inputs * outputs * kernel + outputs

    def block(inputs, outputs, condition):
        shortcut = conv(inputs, outputs, 1) if inputs != outputs else 0
        film = condition * 2 * outputs + 2 * outputs
        convolutions = conv(inputs, outputs, 5) + conv(outputs, outputs, 5) + 2 * 2 * outputs
        return convolutions + film + shortcut

    action, condition, time = 2, 40, 256
    c = condition + time
    total = conv(time, 4 * time, 1) + conv(4 * time, time, 1)
    widths = [256, 512, 1024]
    for inputs, outputs in zip([action, *widths], widths, strict=False):
        total += block(inputs, outputs, c) + block(outputs, outputs, c)
    total += 2 * block(1024, 1024, c)
    for inputs, outputs in ((1024, 512), (512, 256)):
        total += block(2 * inputs, outputs, c) + block(outputs, outputs, c)
    total += conv(256, 256, 3) + conv(512, 512, 3) + conv(512, 512, 4) + conv(256, 256, 4)
    total += conv(256, 256, 5) + 2 * 256 + conv(256, 2, 1)
    with torch.device("meta"):
        model = ConditionalUNet1D(action_dim=action, condition_dim=condition)
    assert numbers(model) == total


def test_what_a_unet_cannot_take_is_said():
    with pytest.raises(ValueError, match=r"multiples of 'n_groups' \(8\), got \[12\]"):
        ConditionalUNet1D(action_dim=2, condition_dim=4, down_dims=[12])
    with pytest.raises(ValueError, match="'kernel_size' must be odd, got 4"):
        ConditionalUNet1D(action_dim=2, condition_dim=4, down_dims=[8], kernel_size=4)
    model = ConditionalUNet1D(action_dim=2, condition_dim=4, down_dims=[8, 8, 8], time_dim=4)
    with pytest.raises(ValueError, match="chunks of a multiple of 4 actions, it was given 6"):
        model(torch.zeros(1), torch.zeros(1, 6, 2), torch.zeros(1, 4))


SIZES = {"action_dim": 3, "action_horizon": 6, "condition_dim": 5, "condition_steps": 2}


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_the_transformer_is_that_of_plain_functions(causal):
    torch.manual_seed(0)
    model = DiffusionTransformer(**SIZES, width=8, num_heads=2, num_layers=2, causal=causal).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    p = dict(model.named_parameters())
    timestep, sample, condition = torch.tensor([3, 77]), torch.randn(2, 6, 3), torch.randn(2, 2, 5)

    def linear(name, x):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, (8,), p[f"{name}.weight"], p[f"{name}.bias"])

    def attention(name, query, memory, blocked):
        weight, bias = p[f"{name}.in_proj_weight"], p[f"{name}.in_proj_bias"]
        q, k, v = (
            F.linear(x, weight[i * 8 : i * 8 + 8], bias[i * 8 : i * 8 + 8])
            .unflatten(-1, (2, 4))
            .transpose(1, 2)
            for i, x in enumerate((query, memory, memory))
        )
        scores = (q @ k.mT / 2.0).masked_fill(blocked, -math.inf).softmax(-1)
        return linear(f"{name}.out_proj", (scores @ v).transpose(1, 2).flatten(2))

    memory = torch.cat([step_embedding(timestep, 8)[:, None], linear("condition_layer", condition)], dim=1)
    memory = linear("encoder.2", F.mish(linear("encoder.0", memory + p["condition_positions"])))
    x = linear("input_layer", sample) + p["positions"]
    actions = torch.arange(6)
    future = (actions[None, :] > actions[:, None]) & causal
    # Of the memory 0 is the diffusion step, and 1, 2 are the observations at the times of actions 0, 1.
    unseen = (torch.tensor([-1, 0, 1])[None, :] > actions[:, None]) & causal
    for i in range(2):
        layer = f"decoder.decoder.layers.{i}"
        normed = norm(f"{layer}.norm1", x)
        x = x + attention(f"{layer}.self_attn", normed, normed, future)
        x = x + attention(f"{layer}.multihead_attn", norm(f"{layer}.norm2", x), memory, unseen)
        x = x + linear(f"{layer}.linear2", F.gelu(linear(f"{layer}.linear1", norm(f"{layer}.norm3", x))))
    expected = linear("output_layer", norm("decoder.decoder.norm", x))

    torch.testing.assert_close(model(timestep, sample, condition), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_causal_action_knows_nothing_of_later_ones():
    model = DiffusionTransformer(**SIZES, width=8, num_heads=2, num_layers=2, num_condition_layers=0).eval()
    sample, condition = torch.randn(1, 6, 3), torch.randn(1, 2, 5)
    later, newer = sample.clone(), condition.clone()
    later[:, 3:] += 1.0
    newer[:, 1] += 1.0
    one, two = model(torch.ones(1), sample, condition), model(torch.ones(1), later, condition)
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert not torch.allclose(one[:, 3:], two[:, 3:])
    three = model(torch.ones(1), sample, newer)
    torch.testing.assert_close(one[:, 0], three[:, 0])
    assert not torch.allclose(one[:, 1:], three[:, 1:])


def test_the_published_transformer_has_its_number_of_parameters():
    d, layers, action, horizon, condition, steps = 256, 8, 2, 16, 20, 2
    attention = 4 * (d * d + d)
    layer = 2 * attention + (d * 4 * d + 4 * d) + (4 * d * d + d) + 3 * 2 * d
    mlp = (d * 4 * d + 4 * d) + (4 * d * d + d)
    embeddings = (action * d + d) + (condition * d + d) + (horizon + 1 + steps) * d
    total = layers * layer + mlp + embeddings + 2 * d + (d * action + action)
    with torch.device("meta"):
        model = DiffusionTransformer(
            action_dim=action, action_horizon=horizon, condition_dim=condition, condition_steps=steps
        )
    assert numbers(model) == total


def test_a_causal_chunk_that_ends_before_the_last_observation_is_refused():
    with pytest.raises(ValueError, match="a chunk of 2 actions ends before the last of 3 observations"):
        DiffusionTransformer(action_dim=2, action_horizon=2, condition_dim=4, condition_steps=3)
