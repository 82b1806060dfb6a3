"""What can break while a run trains: memory, loader workers, parameters without gradients; said plainly."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.engine.experiment import Experiment
from trainer.utils.errors import TrainingFault
from trainer.utils.log import log


@dataclass
class Faults:
    """What a report of a fault speaks of.

    Attributes:
        batch: the batch that is being trained on.
        gradients_seen: whether it was looked at which parameters get gradients.
    """

    batch: Mapping[str, Any] = field(default_factory=dict)
    gradients_seen: bool = False


@contextlib.contextmanager
def explained_faults(e: Experiment) -> Iterator[Faults]:
    """Turn what torch says of memory and of workers into one sentence; other errors pass as they are.

    Raises:
        TrainingFault: instead of these errors.
    """
    faults = Faults()
    try:
        yield faults
    except TrainingFault:
        raise
    except (RuntimeError, MemoryError) as error:
        message = _explanation(e, faults, error)
        if message is None:
            raise
        raise TrainingFault(message) from error


def _explanation(e: Experiment, faults: Faults, error: Exception) -> str | None:
    text = str(error)
    at = f"at step {e.progress.iteration}"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in text:
        wanted = re.search(r"(?:allocate|allocate memory: you tried to allocate) ([\d.]+ ?\w+)", text)
        amount = f" when {_readable(wanted[1])} more were asked for" if wanted else ""
        return (
            f"out of memory {at}{amount}. The batch: {_shapes(faults.batch)}; {_memory(e.runtime.device)}. "
            f"Lower data.batch_size ({e.config.data.batch_size}) and raise train.accumulate_grad_batches "
            f"({e.batches.micro_batches}) as much: the updates stay the same"
        )
    worker = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (.*)", text)
    if worker:
        how = worker[2].strip().rstrip(".").removeprefix("is ")
        return (
            f"a loader worker (process {worker[1]}) ended {at}: {how}. A worker that is killed has mostly "
            "run out of memory: lower data.num_workers or data.prefetch_factor"
        )
    if "Expected to have finished reduction" in text:
        return (
            f"some parameters got no gradient {at}, so the ranks cannot share it: set "
            "model.find_unused_parameters: true"
        )
    return None


def _readable(amount: str) -> str:
    """Return an amount of memory as torch gives it, bytes as MB."""
    return f"{int(amount.split()[0]) / 1e6:,.1f} MB" if amount.endswith(" bytes") else amount


def _shapes(batch: Mapping[str, Any]) -> str:
    tensors = {k: v for k, v in batch.items() if isinstance(v, Tensor)}
    size = sum(v.numel() * v.element_size() for v in tensors.values())
    largest = sorted(tensors.items(), key=lambda item: -item[1].numel() * item[1].element_size())[:6]
    shown = ", ".join(f"{k} {tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in largest)
    more = f" and {len(tensors) - len(largest)} more" if len(tensors) > len(largest) else ""
    return f"{shown}{more}, {size / 1e6:.1f} MB" if tensors else "not read yet"


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        return f"the GPU has {total / 1e9:.1f} GB, {free / 1e9:.1f} free; tensors took up to {peak / 1e9:.1f}"
    try:
        words = [line.split() for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "this system does not tell how much memory there is"
    facts = {name.rstrip(":"): int(size) * 1024 for name, size, *_ in words if size.isdigit()}
    return f"the machine has {facts['MemTotal'] / 1e9:.1f} GB, {facts['MemAvailable'] / 1e9:.1f} free"


def check_gradients_came(e: Experiment) -> None:
    """Look, after the first update of a process, at which trained parameters got no gradient.

    Among several ranks that must be allowed for; where it is allowed for in vain, it costs time.

    Raises:
        TrainingFault: several ranks, and `find_unused_parameters` is needed.
    """
    without: dict[str, list[str]] = {}
    any_came = False
    for name in e.optimizers:
        module = e.components[name].module
        trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        missing = [n for n, p in trained if p.grad is None]
        any_came = any_came or len(missing) < len(trained)
        if missing:
            without[name] = missing
    if not any_came:
        return  # a trainer of the user's own may take gradients away after the step
    flag = e.config.model.find_unused_parameters
    if not without:
        if flag and e.runtime.distributed:
            log.warning(
                "every parameter got a gradient, so model.find_unused_parameters: true only costs time, "
                "unless later steps leave some out."
            )
        return
    listed = "; ".join(
        f"{name}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for name, names in without.items()
    )
    if e.runtime.distributed and not flag:
        raise TrainingFault(
            f"the first step gave no gradient to some parameters ({listed}); set "
            "model.find_unused_parameters: true, or leave them out of the model"
        )
    log.warning(f"the first step gave no gradient to some parameters ({listed}).")
