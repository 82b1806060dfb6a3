"""Before a built component is trained: initialise it, freeze it, count it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def init_weights(module: nn.Module) -> None:
    """Initialise every convolution (Xavier uniform), linear layer (Kaiming normal, ReLU gain) and batch norm.

    Biases become zero. A layer that declares `keep_init = True` keeps what its block gave it, such as the
    zero-initialised gates of a residual branch.
    """
    for layer in module.modules():
        if getattr(layer, "keep_init", False):
            continue
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(layer, _BatchNorm) and layer.affine:
            nn.init.ones_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def freeze(module: nn.Module) -> None:
    """Take a component out of training: no gradients, eval mode."""
    module.requires_grad_(False)
    module.eval()


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Return how many parameters there are and how many take gradients; uninitialised lazy ones count 0."""
    sizes = [
        (0 if isinstance(p, torch.nn.parameter.UninitializedParameter) else p.numel(), p.requires_grad)
        for p in module.parameters()
    ]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)
