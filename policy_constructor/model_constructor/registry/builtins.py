"""Torch's own modules, and the operations that go between modules."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_constructor.random import randn_like
from model_constructor.registry.registry import Registry

MODULES: tuple[type[nn.Module], ...] = (
    nn.Identity,
    # linear and embedding
    nn.Linear,
    nn.LazyLinear,
    nn.Bilinear,
    nn.Embedding,
    # convolution and pooling
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.LazyConv1d,
    nn.LazyConv2d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    # normalization
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    # activation
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softmax,
    nn.Hardtanh,
    nn.GLU,
    # regularization and shape
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Flatten,
    nn.Unflatten,
    # recurrence and attention
    nn.GRU,
    nn.LSTM,
    nn.GRUCell,
    nn.LSTMCell,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    # containers
    nn.Sequential,
)

_Value = TypeVar("_Value")


def identity(value: _Value) -> _Value:
    """The value itself."""
    return value


def concat(*tensors: Tensor, dim: int = -1) -> Tensor:
    """Tensors one after the other along `dim`, by default the last: `cat` without the inner list."""
    return torch.cat(tensors, dim)


def repeat_interleave(tensor: Tensor, repeats: int, dim: int = 0) -> Tensor:
    """Each slice along `dim` `repeats` times in a row."""
    return torch.repeat_interleave(tensor, repeats, dim)


def cast(tensor: Tensor, dtype: str) -> Tensor:
    """The tensor as another type, named as in torch: `float32`, `bfloat16`, `int64`."""
    wanted = getattr(torch, dtype, None)
    if not isinstance(wanted, torch.dtype):
        raise ValueError(f"torch has no dtype '{dtype}'")
    return tensor.to(wanted)


OPS: dict[str, Callable[..., Any]] = {
    "identity": identity,
    # arithmetic
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "pow": operator.pow,
    "matmul": torch.matmul,
    "einsum": torch.einsum,
    "clamp": torch.clamp,
    "where": torch.where,
    "exp": torch.exp,
    "log": torch.log,
    "sin": torch.sin,
    "cos": torch.cos,
    "square": torch.square,
    "sqrt": torch.sqrt,
    # activation
    "relu": F.relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softmax": torch.softmax,
    "normalize": F.normalize,
    # reduction
    "mean": torch.mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
    "argmax": torch.argmax,
    # joining and taking apart
    "getitem": operator.getitem,
    "cat": torch.cat,
    "concat": concat,
    "stack": torch.stack,
    "chunk": torch.chunk,
    "split": torch.split,
    "unbind": torch.unbind,
    "select": torch.select,
    "narrow": torch.narrow,
    # shape
    "flatten": torch.flatten,
    "unflatten": torch.unflatten,
    "reshape": torch.reshape,
    "unsqueeze": torch.unsqueeze,
    "squeeze": torch.squeeze,
    "transpose": torch.transpose,
    "permute": torch.permute,
    "movedim": torch.movedim,
    "expand": Tensor.expand,
    "expand_as": Tensor.expand_as,
    "repeat": Tensor.repeat,
    "repeat_interleave": repeat_interleave,
    "interpolate": F.interpolate,
    # making and converting
    "zeros_like": torch.zeros_like,
    "ones_like": torch.ones_like,
    "randn_like": randn_like,
    "detach": torch.detach,
    "cast": cast,
}


def register_builtins(registry: Registry) -> None:
    """Register torch's modules as `nn.<Name>`, and the operations."""
    for module in MODULES:
        registry.register_module(f"nn.{module.__name__}", module, tags=("torch",))
    for name, function in OPS.items():
        registry.register_op(name, function)
