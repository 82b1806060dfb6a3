"""Seeding, saving and restoring the global random generators of a process."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def set_global_seed(seed: int, deterministic: bool = False) -> None:
    """Seed python, numpy and torch (all devices).

    Args:
        seed: any non-negative integer.
        deterministic: also make torch refuse operations that have no deterministic implementation.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def seed_worker(worker_id: int) -> None:
    """Seed python and numpy in a worker of a data loader, as torch has seeded itself there.

    Torch's seed of a worker is that of its loader plus the worker's number, so that all workers differ.

    Args:
        worker_id: the number of the worker, which the loader passes.
    """
    random.seed(torch.initial_seed())
    np.random.seed(torch.initial_seed() % 2**32)


def random_state() -> dict[str, Any]:
    """Return the state of every global generator, in tensors and plain values that load without code."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": {"version": version, "internal": list(internal), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Let nothing that the block draws change what comes after it."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
