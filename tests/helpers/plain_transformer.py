"""Transformers written out from their formulas, as a reference for the blocks."""

import math

import torch
import torch.nn.functional as F


class Weights:
    """A state dict read below a prefix."""

    def __init__(self, state, prefix=""):
        self.state, self.prefix = state, prefix

    def __getitem__(self, name):
        return self.state[self.prefix + name]

    def __contains__(self, name):
        return self.prefix + name in self.state

    def below(self, name):
        return Weights(self.state, f"{self.prefix}{name}.")

    def linear(self, name, x):
        return torch.einsum("...i,oi->...o", x, self[f"{name}.weight"]) + self[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return normed * self[f"{name}.weight"] + self[f"{name}.bias"]


def attention(w, query, memory, heads, causal=False):
    weight, bias = w["in_proj_weight"], w["in_proj_bias"]
    d = query.shape[-1]
    q = query @ weight[:d].T + bias[:d]
    k = memory @ weight[d : 2 * d].T + bias[d : 2 * d]
    v = memory @ weight[2 * d :].T + bias[2 * d :]
    outputs = []
    for h in range(heads):
        part = slice(h * d // heads, (h + 1) * d // heads)
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(d // heads)
        if causal:
            seen = torch.arange(k.shape[1])[None] <= torch.arange(q.shape[1])[:, None]
            scores = torch.where(seen, scores, torch.tensor(-torch.inf))
        outputs.append(torch.softmax(scores, -1) @ v[..., part])
    return w.linear("out_proj", torch.cat(outputs, -1))


def feed_forward(w, x):
    return w.linear("linear2", F.gelu(w.linear("linear1", x)))


def encoder(w, x, heads, layers, pre_norm=False):
    for n in range(layers):
        layer = w.below(f"layers.{n}")
        if pre_norm:
            y = layer.norm("norm1", x)
            x = x + attention(layer.below("self_attn"), y, y, heads)
            x = x + feed_forward(layer, layer.norm("norm2", x))
        else:
            x = layer.norm("norm1", x + attention(layer.below("self_attn"), x, x, heads))
            x = layer.norm("norm2", x + feed_forward(layer, x))
    return w.norm("norm", x) if pre_norm else x


def decoder(w, x, memory, heads, layers, causal, pre_norm=False):
    for n in range(layers):
        layer = w.below(f"layers.{n}")
        own, cross = layer.below("self_attn"), layer.below("multihead_attn")
        if pre_norm:
            y = layer.norm("norm1", x)
            x = x + attention(own, y, y, heads, causal)
            x = x + attention(cross, layer.norm("norm2", x), memory, heads)
            x = x + feed_forward(layer, layer.norm("norm3", x))
        else:
            x = layer.norm("norm1", x + attention(own, x, x, heads, causal))
            x = layer.norm("norm2", x + attention(cross, x, memory, heads))
            x = layer.norm("norm3", x + feed_forward(layer, x))
    return w.norm("norm", x) if pre_norm else x


def positions(length, width):
    table = torch.zeros(length, width)
    for p in range(length):
        for i in range(width // 2):
            angle = p * 10000 ** (-2 * i / width)
            table[p, 2 * i], table[p, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


def time_embedding(time, width):
    half = width // 2
    rows = []
    for t in time.tolist():
        angles = [t * 10000 ** (-k / (half - 1)) for k in range(half)]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    return torch.tensor(rows)


def randomize(module, seed=0):
    """Give every parameter a value that matters, norms and biases too; return the module in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    return module.eval()
