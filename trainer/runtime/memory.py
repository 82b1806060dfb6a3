"""The memory of a process: keeping that of freed tensors, and the most that it took."""

from __future__ import annotations

import contextlib
import ctypes
import sys

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more


def keep_freed_memory() -> None:
    """Tell glibc not to give the memory of freed tensors back to the system between steps.

    A step frees its gradients and activations and the next one asks for the same again; without this every
    page of them is zeroed by the kernel anew. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory(device: torch.device) -> dict[str, int]:
    """Return the most bytes that this process has taken so far: of the machine, and of its GPU."""
    taken = {}
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        taken["host"] = size if sys.platform == "darwin" else size * 1024
    if device.type == "cuda":
        taken["gpu"] = torch.cuda.max_memory_allocated(device)
    return taken
