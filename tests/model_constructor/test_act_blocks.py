"""ACT's networks against plain torch functions, and their sizes against arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_constructor.blocks.act import ACTStyleEncoder, ACTTransformer
from model_constructor.blocks.encodings import sinusoidal_positions, sinusoidal_positions_2d

D, HEADS = 8, 2


class Plain:
    """The layers of DETR, by torch's functions over a model's parameters."""

    def __init__(self, model):
        self.p = dict(model.named_parameters())

    def linear(self, name, x):
        return F.linear(x, self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def norm(self, name, x):
        return F.layer_norm(x, (D,), self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def attention(self, name, query, key, value, unread=None):
        weights = self.p[f"{name}.in_proj_weight"].chunk(3)
        biases = self.p[f"{name}.in_proj_bias"].chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        scores = q @ k.mT / math.sqrt(D / HEADS)
        if unread is not None:
            scores = scores.masked_fill(unread[:, None, None], -math.inf)
        return self.linear(f"{name}.out_proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def feed_forward(self, name, x):
        return self.linear(f"{name}.3", self.linear(f"{name}.0", x).relu())

    def encoder_layer(self, name, x, positions, unread=None):
        read = self.attention(f"{name}.attention", x + positions, x + positions, x, unread)
        x = self.norm(f"{name}.norms.0", x + read)
        return self.norm(f"{name}.norms.1", x + self.feed_forward(f"{name}.feed_forward", x))


def small(cls, **sizes):
    torch.manual_seed(0)
    model = cls(action_dim=3, latent_dim=4, width=D, num_heads=HEADS, dim_feedforward=16, **sizes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@torch.no_grad()
def test_the_style_encoder_is_that_of_plain_functions():
    model = small(ACTStyleEncoder, state_dim=5, num_layers=2)
    plain = Plain(model)
    state, action = torch.randn(2, 5), torch.randn(2, 6, 3)
    is_pad = torch.arange(6)[None] >= torch.tensor([6, 4])[:, None]
    tokens = [plain.p["cls"].expand(2, 1, D), plain.linear("state_projection", state)[:, None]]
    x = torch.cat([*tokens, plain.linear("action_projection", action)], dim=1)
    positions = torch.zeros(8, D)
    for place in range(8):
        for i in range(D // 2):
            angle = place / 10000 ** (2 * i / D)
            positions[place, 2 * i], positions[place, 2 * i + 1] = math.sin(angle), math.cos(angle)
    unread = torch.cat([torch.zeros(2, 2, dtype=torch.bool), is_pad], dim=1)
    for i in range(2):
        x = plain.encoder_layer(f"layers.{i}", x, positions, unread)
    expected = plain.linear("output_layer", x[:, 0])
    torch.testing.assert_close(model(state, action, is_pad), expected, atol=1e-4, rtol=1e-4)
    changed = torch.where(is_pad[..., None], 100.0, action)
    torch.testing.assert_close(model(state, changed, is_pad), model(state, action, is_pad))


@torch.no_grad()
def test_the_transformer_is_that_of_plain_functions():
    model = small(
        ACTTransformer,
        action_horizon=5,
        vector_dims=[4, 2],
        feature_channels=6,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    plain = Plain(model)
    latent, vectors = torch.randn(2, 4), [torch.randn(2, 4), torch.randn(2, 2)]
    maps = [torch.randn(2, 6, 2, 3), torch.randn(2, 6, 1, 2)]
    tokens = [plain.linear("latent_projection", latent)]
    tokens += [plain.linear(f"vector_projections.{i}", v) for i, v in enumerate(vectors)]
    x, places = torch.stack(tokens, dim=1), [plain.p["positions"][0]]
    weight, bias = plain.p["feature_projection.weight"][..., 0, 0], plain.p["feature_projection.bias"]
    for features in maps:
        x = torch.cat([x, F.linear(features.movedim(1, -1).flatten(1, 2), weight, bias)], dim=1)
        places.append(sinusoidal_positions_2d(*features.shape[-2:], D, like=x)[0])
    places = torch.cat(places)
    for i in range(2):
        x = plain.encoder_layer(f"encoder.{i}", x, places)
    queries, y = plain.p["queries"], torch.zeros(2, 5, D)
    for i in range(2):
        name = f"decoder.{i}"
        read = plain.attention(f"{name}.self_attention", y + queries, y + queries, y)
        y = plain.norm(f"{name}.norms.0", y + read)
        read = plain.attention(f"{name}.cross_attention", y + queries, x + places, x)
        y = plain.norm(f"{name}.norms.1", y + read)
        y = plain.norm(f"{name}.norms.2", y + plain.feed_forward(f"{name}.feed_forward", y))
    expected = plain.linear("output_layer", plain.norm("output_norm", y))
    torch.testing.assert_close(model(latent, vectors, maps), expected, atol=1e-4, rtol=1e-4)


def test_positions_in_a_picture_are_those_of_the_formula():
    positions = sinusoidal_positions_2d(2, 3, 8, like=torch.zeros(1))[0].reshape(2, 3, 8).numpy()
    for row in range(2):
        for column in range(3):
            for half, place in enumerate(((row + 1) / 2, (column + 1) / 3)):
                for i in range(2):
                    angle = 2 * math.pi * place / 10000 ** (2 * i / 4)
                    found = positions[row, column, 4 * half + 2 * i : 4 * half + 2 * i + 2]
                    np.testing.assert_allclose(found, [math.sin(angle), math.cos(angle)], atol=1e-6)


def test_positions_of_a_sequence_start_at_zero():
    np.testing.assert_allclose(sinusoidal_positions(2, 4, like=torch.zeros(1))[0, 0], [0, 1, 0, 1])


def test_the_published_configuration_has_its_number_of_parameters():
    d, hidden, layers, chunk, action, state, latent = 512, 3200, 4, 100, 14, 14, 32

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    attention = 4 * linear(d, d)
    feed_forward = linear(d, hidden) + linear(hidden, d)
    encoder = layers * (attention + feed_forward + 2 * 2 * d)
    style = encoder + d + linear(state, d) + linear(action, d) + linear(d, 2 * latent)
    decoder = 2 * attention + feed_forward + 3 * 2 * d
    inputs = linear(latent, d) + linear(state, d) + linear(512, d) + 2 * d
    transformer = encoder + decoder + inputs + chunk * d + 2 * d + linear(d, action)
    with torch.device("meta"):
        one = ACTStyleEncoder(action_dim=action, state_dim=state)
        two = ACTTransformer(
            action_dim=action, action_horizon=chunk, vector_dims=[state], feature_channels=512
        )
    assert sum(p.numel() for p in one.parameters()) == style
    assert sum(p.numel() for p in two.parameters()) == transformer


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"'width' \(12\) must be a multiple of 'num_heads' \(5\)"):
        ACTStyleEncoder(action_dim=2, state_dim=2, width=12, num_heads=5)
    model = small(ACTTransformer, action_horizon=5, vector_dims=[4])
    with pytest.raises(ValueError, match="'vector_dims' names 1 vectors, but 2 were given"):
        model(torch.zeros(1, 4), [torch.zeros(1, 4)] * 2)
    with pytest.raises(ValueError, match="'feature_channels' is null, but feature maps were given"):
        model(torch.zeros(1, 4), [torch.zeros(1, 4)], [torch.zeros(1, 6, 2, 2)])
