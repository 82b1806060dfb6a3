"""Copying the state of a run to host memory that is kept from one checkpoint to the next."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from trainer.utils.tree import tree_map

_Format = tuple[Any, ...]


class HostMemory:
    """Copies states into memory of the host, the same memory each time: getting it anew takes longer.

    Copies are made at once. From a GPU they go to pinned memory, in the order of what the GPU is asked to do,
    so that no later update can touch them and the host goes on meanwhile.
    """

    def __init__(self) -> None:
        self._free: dict[_Format, list[Tensor]] = {}
        self._used: dict[_Format, list[Tensor]] = {}
        self._copied: torch.cuda.Event | None = None

    def reuse(self) -> None:
        """Let the coming copies take the memory of those so far, which nobody may need any more."""
        self._free, self._used = self._used, {}

    def copy(self, state: Any) -> Any:
        """Return the state with copies in the place of its tensors; one that occurs twice is copied once."""
        copies: dict[_Format, Tensor] = {}

        def copy_leaf(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            source = leaf.detach()
            key = (source.untyped_storage().data_ptr(), source.storage_offset(), *_format(source))
            if key not in copies or not source.numel():
                copies[key] = self._copy(source)
            return copies[key]

        copied = tree_map(copy_leaf, state)
        if any(key[-1] == "cuda" for key in copies):
            self._copied = torch.cuda.Event()
            self._copied.record()
        return copied

    def wait(self) -> None:
        """Return when all copies have arrived; for the thread that reads them."""
        if self._copied is not None:
            self._copied.synchronize()

    def _copy(self, source: Tensor) -> Tensor:
        key = _format(source)
        free = self._free.get(key)
        target = free.pop() if free else _host_memory(source)
        self._used.setdefault(key, []).append(target)
        return target.copy_(source, non_blocking=source.is_cuda)


def to_host(state: Any) -> Any:
    """Return a copy of a state on the CPU that later updates do not touch."""
    return tree_map(lambda x: x.detach().to("cpu", copy=True) if isinstance(x, Tensor) else x, state)


def _host_memory(source: Tensor) -> Tensor:
    if source.is_cuda:
        with contextlib.suppress(RuntimeError):  # a system may pin less than it has; then copies wait
            return torch.empty_like(source, device="cpu", pin_memory=True, requires_grad=False)
    return torch.empty_like(source, device="cpu", requires_grad=False)


def _format(source: Tensor) -> _Format:
    """Return what memory and a tensor that fits into it have in common."""
    return (source.shape, source.stride(), source.dtype, source.device.type)
