"""Making a built component ready for training: initialise, freeze, convert, move, wrap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from trainer.runtime import Runtime


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


def is_trainable(module: nn.Module) -> bool:
    """Say whether any parameter of a component takes gradients."""
    return any(p.requires_grad for p in module.parameters())


def wrap(module: nn.Module, runtime: Runtime, find_unused_parameters: bool = False) -> nn.Module:
    """Move a component to its device and, among several ranks, let its gradients be averaged.

    On GPUs batch norms share their statistics over the ranks. Frozen components are moved and nothing else.
    """
    if not runtime.distributed or not is_trainable(module):
        return module.to(runtime.device)
    if any(isinstance(layer, _BatchNorm) for layer in module.modules()) and runtime.device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    module = module.to(runtime.device)
    devices = [runtime.device.index] if runtime.device.type == "cuda" else None
    return DistributedDataParallel(
        module,
        device_ids=devices,
        find_unused_parameters=find_unused_parameters,
        gradient_as_bucket_view=True,
    )


def compile_trained(models: nn.ModuleDict, backend: str, mode: str) -> None:
    """Compile the forward pass of every component that trains, in place; names of weights stay."""
    for _, module in unwrapped(models):
        if is_trainable(module):
            module.compile(backend=backend, **({} if backend != "inductor" else {"mode": mode}))


def unwrap(module: nn.Module) -> nn.Module:
    """Return the component inside a `DistributedDataParallel`, or the component itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module


@contextlib.contextmanager
def without_gradient_traffic(models: nn.ModuleDict) -> Iterator[None]:
    """Let ranks keep their gradients to themselves: more batches of the same update follow."""
    with contextlib.ExitStack() as stack:
        for module in models.values():
            if isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
        yield


def unwrapped(models: nn.ModuleDict) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and bare component for every component."""
    for name, module in models.items():
        yield name, unwrap(module)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Return how many parameters there are and how many take gradients; uninitialised lazy ones count 0."""
    sizes = [
        (0 if isinstance(p, torch.nn.parameter.UninitializedParameter) else p.numel(), p.requires_grad)
        for p in module.parameters()
    ]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)
