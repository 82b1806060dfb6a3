"""One small interface to where a run happens: alone, or as one of several ranks under torchrun."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.runtime.memory import keep_freed_memory

PRECISIONS = ("auto", "fp32", "bf16")
# Other ranks wait this long while rank 0 evaluates or writes.
RANK_TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True)
class Runtime:
    """This process's place in the run.

    Attributes:
        device: where models and batches live.
        precision: `fp32`, or `bf16` for autocast.
        rank: place among all ranks; rank 0 writes files.
        local_rank: place among the ranks of this machine.
        world_size: number of ranks.
    """

    device: torch.device
    precision: str = "fp32"
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks to the user."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        """Whether other ranks take part."""
        return self.world_size > 1

    def autocast(self) -> torch.autocast:
        """Return the context in which a training step runs forward."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.distributed:
            dist.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks."""
        if self.distributed:
            dist.all_reduce(values, op=dist.ReduceOp.SUM)
            values = values / self.world_size
        return values

    def largest(self, value: int) -> int:
        """Return the largest of all ranks' numbers; this waits for the device."""
        if not self.distributed:
            return value
        number = torch.tensor(value, device=self.device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's (picklable) value on rank 0, in rank order; an empty list elsewhere."""
        if not self.distributed:
            return [value]
        gathered: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, gathered, dst=0)
        return gathered or []


@contextlib.contextmanager
def connect(device: str = "auto", precision: str = "auto") -> Iterator[Runtime]:
    """Join the ranks that `torchrun` started, or run alone; leave them when the block ends.

    Args:
        device: `auto` takes the GPU of this local rank where there is one, else the CPU.
        precision: `auto` takes bf16 on a GPU that has it, else fp32.

    Raises:
        ValueError: the device is not there.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = environment_rank()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = select_device(device, local_rank)
    if chosen.type == "cpu":
        keep_freed_memory()
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if precision == "auto":
        precision = "bf16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if world_size > 1:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        device_id = chosen if chosen.type == "cuda" else None
        dist.init_process_group(backend, timeout=RANK_TIMEOUT, device_id=device_id)
    try:
        yield Runtime(chosen, precision, rank, local_rank, world_size)
    finally:
        if world_size > 1:
            dist.destroy_process_group()


def environment_rank() -> int:
    """Return the rank that `torchrun` gave this process; 0 when it runs alone."""
    return int(os.environ.get("RANK", "0"))


def select_device(requested: str | None = "auto", local_rank: int = 0) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` means for a local rank.

    Raises:
        ValueError: the text means no device, or a GPU that is not there.
    """
    if requested in (None, "auto"):
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    assert requested is not None
    if requested == "cpu":
        return torch.device("cpu")
    kind, _, number = requested.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise ValueError(f"'{requested}' is no device; use auto, cpu, cuda or cuda:N")
    index = int(number or local_rank)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise ValueError(f"{requested} asks for GPU {index}, but this machine offers {count}")
    return torch.device("cuda", index)
