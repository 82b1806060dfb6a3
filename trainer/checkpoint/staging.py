"""Copying the state of a run to the host while its training goes on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.utils.tree import tree_map

# Copying less than this at once takes no longer than handing it to another thread.
_SMALL = 1 << 16
# Niceness of what can wait; on Linux every thread has its own.
_PATIENCE = 10

_Key = tuple[Any, ...]


class TornError(RuntimeError):
    """Tensors changed outside of an update while they were being copied, so the copy is worth nothing."""


@dataclass
class _Late:
    """A tensor that is copied after `save` has returned."""

    key: _Key
    source: Tensor
    version: int
    target: Tensor


class HostCopier:
    """Copies states to host memory that is used again and again.

    What changes in updates only is copied late: on a CPU by a thread of its own, on a GPU by a stream of its
    own. `guard` makes every optimizer wait for these copies before it changes anything,
    and costs nothing when there are none. Everything else is copied at once.

    A tensor that changes between the snapshot and the next update all the same is noticed by its version
    counter: that snapshot is torn and must not be written, and from then on the tensor is copied at once.

    Args:
        device: where the tensors of the run are.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers: dict[_Key, list[Tensor]] = {}
        self._restless: set[_Key] = set()
        self._pending: Copies | None = None
        self._preparing: threading.Thread | None = None

    def prepare(self, tensors: Iterable[Tensor]) -> None:
        """Get the memory for copies of these tensors in the background: its first use takes long."""
        distinct = list({_key(t): t.detach() for t in tensors if t.numel()}.values())

        def get() -> None:
            stand_back()
            with contextlib.suppress(RuntimeError, MemoryError):  # the first save will say that there is none
                for source in distinct:
                    self._buffers.setdefault(_format(source), []).append(_host_memory(source).zero_())

        self._preparing = threading.Thread(target=get, name="checkpoint-memory", daemon=True)
        self._preparing.start()

    def guard(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Make these optimizers wait for late copies before each update."""
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(lambda *_: self.before_update())

    def before_update(self) -> None:
        """Return when the tensors of the run may change."""
        pending = self._pending
        if pending is not None:
            self._pending = None
            pending.settle()

    def begin(self, late: Iterable[Tensor] = ()) -> Copies:
        """Start a snapshot, for which everything that was copied before must have been released.

        Args:
            late: tensors that change in updates only, all of which `before_update` precedes.
        """
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None
        self._pending = Copies(self, {_key(t) for t in late} - self._restless)
        return self._pending

    def buffer(self, source: Tensor) -> Tensor:
        """Return host memory for a copy of `source`, that of an earlier copy where one fits."""
        fitting = self._buffers.get(_format(source))
        return fitting.pop() if fitting else _host_memory(source)


class Copies:
    """The copies of one snapshot."""

    def __init__(self, copier: HostCopier, late: set[_Key]) -> None:
        self._copier = copier
        self._late_keys = late
        self._late: list[_Late] = []
        self._event: torch.cuda.Event | None = None
        self._used: list[tuple[_Key, Tensor]] = []
        self._copied = threading.Event()
        self._lock = threading.Lock()
        self._settled = False
        self._torn: list[_Key] = []
        self._error: BaseException | None = None

    def now(self, state: Any) -> Any:
        """Return the state with host tensors in the place of its own; they hold today's values."""
        return self._copy(state, set())

    def later(self, state: Any) -> Any:
        """Return the state with host tensors; those of late ones are filled when `finish` has returned.

        A tensor that occurs twice is copied once, and the result has it twice.
        """
        copied = self._copy(state, self._late_keys)
        stream = self._copier._stream
        on_device = [one for one in self._late if one.source.is_cuda]
        if stream is not None and on_device:
            # The copies begin when what the device has been asked to do so far is done, and the host goes on.
            stream.wait_stream(torch.cuda.current_stream(stream.device))
            with torch.cuda.stream(stream):
                for one in on_device:
                    one.target.copy_(one.source, non_blocking=True)
        self._record()
        return copied

    def _copy(self, state: Any, late: set[_Key]) -> Any:
        done: dict[_Key, Tensor] = {}

        def copy(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            source = leaf.detach()
            key = _key(source)
            if key not in done:
                done[key] = self._copy_one(key, source, key in late)
            return done[key]

        return tree_map(copy, state)

    def _copy_one(self, key: _Key, source: Tensor, late: bool) -> Tensor:
        if source.numel() == 0:
            return torch.empty_like(source, device="cpu")
        target = self._copier.buffer(source)
        self._used.append((_format(source), target))
        if late and (source.is_cuda or source.nbytes > _SMALL):
            self._late.append(_Late(key, source, source._version, target))
        else:
            # From a GPU this is ordered before all that the training asks of it later.
            target.copy_(source, non_blocking=source.is_cuda)
        return target

    def _record(self) -> None:
        stream = self._copier._stream
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(stream.device))
            self._event = torch.cuda.Event()
            self._event.record(stream)

    def start(self) -> None:
        """Make the late copies on the host in the background; to be called once `later` has returned."""

        def copy() -> None:
            try:
                for one in self._late:
                    if not one.source.is_cuda:
                        copy_tensor(one.target, one.source)
            except BaseException as error:
                self._error = error
            finally:
                self._copied.set()

        threading.Thread(target=copy, name="checkpoint-copy", daemon=True).start()

    def finish(self) -> None:
        """Return when everything is copied; called by the thread that writes, after `start`."""
        self._copied.wait()
        if self._event is not None:
            self._event.synchronize()
        if self._error is not None:
            raise self._error

    def settle(self) -> None:
        """Return when the tensors may change; called before an update. On a GPU the host does not wait."""
        if self._event is not None:
            torch.cuda.current_stream(self._copier._stream.device).wait_event(self._event)  # type: ignore[union-attr]
        if any(not one.source.is_cuda for one in self._late):
            self._copied.wait()
        with self._lock:
            self._look()
            self._settled = True

    def _look(self) -> None:
        """Note which tensors have changed since the snapshot was begun."""
        if not self._settled:
            self._torn = [one.key for one in self._late if one.source._version != one.version]

    def check(self) -> None:
        """Make sure that what was copied is one moment of the run; called when the files are written.

        Raises:
            TornError: it is not.
        """
        with self._lock:
            self._look()
        if self._torn:
            self._copier._restless.update(self._torn)
            raise TornError(f"{len(self._torn)} tensors changed outside of an update")

    def release(self) -> None:
        """Let the next snapshot use the memory of this one."""
        self._copied.set()
        with self._lock:
            self._look()
            self._settled = True
        self._late = []
        buffers: dict[_Key, list[Tensor]] = {}
        for key, target in self._used:
            buffers.setdefault(key, []).append(target)
        self._copier._buffers = buffers


def copy_tensor(target: Tensor, source: Tensor) -> None:
    """Copy one tensor on the host."""
    target.copy_(source)


def stand_back() -> None:
    """Let this thread compute where the training leaves a core to it, if the system has such a thing."""
    with contextlib.suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        niceness = max(_PATIENCE, os.getpriority(os.PRIO_PROCESS, thread))
        os.setpriority(os.PRIO_PROCESS, thread, niceness)


def _host_memory(source: Tensor) -> Tensor:
    if source.is_cuda:
        with contextlib.suppress(RuntimeError):  # a system may pin less than it has; then copies wait
            return torch.empty_like(source, device="cpu", pin_memory=True, requires_grad=False)
    return torch.empty_like(source, device="cpu", requires_grad=False)


def _format(source: Tensor) -> _Key:
    """Return what memory and a tensor that fits into it have in common."""
    return (source.shape, source.stride(), source.dtype, source.is_cuda)


def _key(tensor: Tensor) -> _Key:
    """Return what two names of the same numbers have in common."""
    place = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tensor.shape, tensor.stride(), tensor.dtype)


@contextlib.contextmanager
def deployed_in_place(optimizer: torch.optim.Optimizer | None) -> Iterator[bool]:
    """Let the parameters of a schedule-free optimizer be those to deploy, and then exactly what they were.

    Its own `train()` after `eval()` gives other roundings, so the weights are put back bit for bit.

    Yields:
        Whether the parameters differ from those in training.
    """
    if optimizer is None or not _switches(optimizer):
        yield False
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    exact = [p.detach().clone() for p in parameters]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield True
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, value in zip(parameters, exact, strict=True):
                parameter.copy_(value)


def _switches(optimizer: torch.optim.Optimizer) -> bool:
    """Say whether an optimizer has modes and is in that of training."""
    if not callable(getattr(optimizer, "eval", None)) or not callable(getattr(optimizer, "train", None)):
        return False
    own = getattr(optimizer, "train_mode", True)
    return bool(optimizer.param_groups[0].get("train_mode", own))
