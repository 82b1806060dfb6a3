"""One small interface to where a run happens: alone, or as one of several ranks of torchrun or Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.runtime.memory import keep_freed_memory
from trainer.runtime.rank_loss import AgreedEnd, Loss, Place, RankLost
from trainer.runtime.rank_monitor import RankMonitor, watch_ranks
from trainer.utils.errors import UsageError
from trainer.utils.log import log, log_to_stderr

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A collective takes as long as the slowest rank takes to come to it: rank 0 may first have to wait for a
# large checkpoint to be written. What may take longer is waited for in `Runtime.barrier`. A rank that is gone
# is noticed by the monitor; this bounds ranks that all live and wait for different things.
RANK_TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True)
class Runtime:
    """This process's place in the run.

    Attributes:
        device: where models and batches live.
        precision: `fp32`, or `bf16` or `fp16` for autocast.
        rank: place among all ranks; rank 0 writes files.
        local_rank: place among the ranks of this machine.
        world_size: number of ranks.
        monitor: watches the other ranks, where there are any.
    """

    device: torch.device
    precision: str = "fp32"
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    monitor: RankMonitor | None = None

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks to the user."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        """Whether other ranks take part."""
        return self.world_size > 1

    @property
    def grouped(self) -> bool:
        """Whether there is a process group, which may be one of a single rank."""
        return dist.is_available() and dist.is_initialized()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which a training step runs forward."""
        dtype = _AUTOCAST.get(self.precision)
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    @property
    def rank_is_lost(self) -> bool:
        """Whether another rank of this run is known to be gone."""
        return self.monitor is not None and self.monitor.loss is not None

    def barrier(self) -> None:
        """Wait until all ranks are here, as long as that takes.

        Raises:
            RankLost: one of them will not come.
        """
        if self.monitor is not None:
            self.monitor.meet()

    def reduce(self, values: Tensor, how: str) -> Tensor:
        """Return `mean`, `sum` or `max` of a tensor over all ranks, or that of the `last` rank."""
        if not self.distributed:
            return values
        if how == "last":
            dist.broadcast(values, src=self.world_size - 1)
        else:
            dist.all_reduce(values, op=dist.ReduceOp.MAX if how == "max" else dist.ReduceOp.SUM)
        return values / self.world_size if how == "mean" else values

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

    def copy_from_main(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors, the same ones on every rank, with the values of rank 0."""
        if self.distributed:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def from_main(self, value: Any) -> Any:
        """Return rank 0's (picklable) value on every rank."""
        if not self.distributed:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


def _computed_in_software(precision: str) -> bool:
    """Say whether a CPU multiplies matrices of this precision number by number (51 times slower on AVX2)."""
    asked = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)
    return asked is not None and not asked()


@contextlib.contextmanager
def connect(
    device: str = "auto",
    precision: str = "auto",
    is_final: Callable[[BaseException], bool] = lambda error: False,
) -> Iterator[Runtime]:
    """Join the ranks that `torchrun` or Ray started, or run alone; leave them when the block ends.

    A process group that is there already is used, and is left to whoever made it. Several ranks watch each
    other: when one is lost, the block raises `RankLost` in the others, or their processes end, within
    `BOUND_SECONDS`.

    Args:
        device: `auto` takes the GPU of this local rank where there is one, else the CPU.
        precision: `auto` takes bf16 on a GPU that has it, else fp32.
        is_final: tells the errors that would come again if the run were started again.

    Raises:
        UsageError: the device is not there.
        RankLost: another rank is gone, or this one for a final reason, which rank 0 tells the user.
    """
    found = dist.is_available() and dist.is_initialized()
    world_size = dist.get_world_size() if found else int(os.environ.get("WORLD_SIZE", "1"))
    rank = dist.get_rank() if found else environment_rank()
    log_to_stderr(rank)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = select_device(device, local_rank)
    if chosen.type == "cpu":
        keep_freed_memory()
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if precision == "auto":
        # A GPU that only emulates bf16 is slower with it than with fp32.
        has_it = chosen.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_it else "fp32"
    elif chosen.type == "cpu" and _computed_in_software(precision):
        log.warning(
            f"this processor has no instructions for {precision}, which may take many times as long as fp32: "
            "set precision: auto, or train on a GPU."
        )
    runtime = Runtime(chosen, precision, rank, local_rank, world_size)
    # A single rank of torchrun gets a group as well, in which its components may be sharded.
    ours = not found and (world_size > 1 or {"RANK", "MASTER_ADDR"} <= os.environ.keys())
    if ours:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        device_id = chosen if chosen.type == "cuda" else None
        dist.init_process_group(
            backend, timeout=RANK_TIMEOUT, device_id=device_id, **_own_store(rank, world_size)
        )
    if world_size == 1:
        try:
            yield runtime
        finally:
            _destroy(ours)
        return
    monitor = watch_ranks(rank)
    try:
        yield dataclasses.replace(runtime, monitor=monitor)
    except AgreedEnd:
        monitor.leave()
        _destroy(ours)
        raise
    except BaseException as error:
        final = is_final(error)
        lost = monitor.judge(error, final)
        # Closing our side of it is what frees the others from a collective. Closing it on a GPU may wait for
        # the rank that is gone.
        _destroy(ours and chosen.type == "cpu")
        if lost is not None:
            raise lost from error
        heard = monitor.wait_until_heard()
        if final and rank != 0:
            raise RankLost(Loss.of(Place.here(rank), error, final), say=not heard) from error
        raise
    else:
        monitor.leave()
        _destroy(ours)


def _own_store(rank: int, world_size: int) -> dict[str, Any]:
    """Return where ranks that torchrun started again on one machine find each other.

    Its store outlives them. A rank that is early would find the address of one that is gone and fail, unless
    every start has keys of its own. Machines do not count the starts alike, so there torch's way is taken.
    """
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if start == "0" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return {}
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=RANK_TIMEOUT, wait_for_workers=False)
    return {"store": dist.PrefixStore(f"start_{start}", store), "rank": rank, "world_size": world_size}


def _destroy(ours: bool) -> None:
    if ours:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def environment_rank() -> int:
    """Return the rank that `torchrun` or Ray gave this process; 0 when it runs alone."""
    return int(os.environ.get("RANK", "0"))


def select_device(requested: str | None = "auto", local_rank: int = 0) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` means for a local rank.

    Raises:
        UsageError: the text means no device, or a GPU that is not there.
    """
    if requested in (None, "auto"):
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    assert requested is not None
    if requested == "cpu":
        return torch.device("cpu")
    kind, _, number = requested.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise UsageError(f"'{requested}' is no device; use auto, cpu, cuda or cuda:N")
    index = int(number or local_rank)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise UsageError(f"{requested} asks for GPU {index}, but this machine offers {count}")
    return torch.device("cuda", index)
