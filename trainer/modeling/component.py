"""A component of a policy: the one place that knows how its weights lie on the ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedParameter

from trainer.runtime import Runtime
from trainer.utils.tree import tree_map

Parallel = Literal["none", "ddp", "fsdp"]


class Component:
    """A built module as it is trained: on its device, and distributed.

    A state is a dict under the names that the module gives its tensors, whatever the strategy. It comes in
    two forms: *whole*, as it stands in a checkpoint, and *local*, the rows that this rank holds. Without
    `fsdp` the two are the same.

    Args:
        name: its key in `model.component_config_paths`.
        module: built, initialised or loaded, and frozen where it is not trained.
        runtime: this rank.
        parallel: `none`: every rank has all of it; `ddp`: and gradients are averaged; `fsdp`: every rank has
            a share of each parameter (FSDP2). Frozen modules are moved and nothing else.
        find_unused_parameters: for `ddp`, where a step may leave parameters out.

    Attributes:
        module: the module itself.
        called: what policies call.
        trained: whether any parameter takes gradients.

    Raises:
        ValueError: a parameter cannot be trained this way, or a module keeps state beside its tensors, and
            which.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        runtime: Runtime,
        parallel: Parallel = "none",
        find_unused_parameters: bool = False,
    ) -> None:
        check_state(module, f" of component '{name}'")
        self.name = name
        self.trained = any(p.requires_grad for p in module.parameters())
        self.parallel: Parallel = parallel if self.trained else "none"
        if self.parallel != "none":
            _check_parameters(name, module, self.parallel)
            batch_norms = any(isinstance(layer, _BatchNorm) for layer in module.modules())
            if batch_norms and runtime.device.type == "cuda":
                module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        module = module.to(runtime.device)
        self._runtime = runtime
        self._empty: nn.Module | None = None
        if self.parallel == "fsdp":
            self._empty = _emptied(module, "meta")
            _shard(module, runtime)
        self.module = module
        self.called = module
        if self.parallel == "ddp":
            self.called = DistributedDataParallel(
                module,
                device_ids=[runtime.device.index] if runtime.device.type == "cuda" else None,
                find_unused_parameters=find_unused_parameters,
                gradient_as_bucket_view=True,
            )

    def local_state(self) -> dict[str, Tensor]:
        """Return the live tensors of this rank; what is written to them is written to the module."""
        return {name: local(value) for name, value in self.module.state_dict().items()}

    def full_state(self) -> dict[str, Tensor]:
        """Return the whole tensors; live ones but for `fsdp`. All ranks meet."""
        return {name: whole(value) for name, value in self.module.state_dict().items()}

    def gather(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a local state, such as that of an average, whole. All ranks meet."""
        return {name: _gathered(state[name], like) for name, like in self._like(state)}

    def scatter(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what this rank holds of a whole state."""
        return {name: local(_distributed(state[name], like)) for name, like in self._like(state)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a whole state.

        Raises:
            RuntimeError: names or shapes are not those of the module; torch's text.
        """
        own = self.module.state_dict()
        shares = {
            name: _distributed(value, own[name]) if name in own else value for name, value in state.items()
        }
        self.module.load_state_dict(shares, strict=True)

    def sync_gradients(self, on: bool, in_phases: bool = False) -> None:
        """Let the coming forward and backward passes share gradients with other ranks, or keep them here.

        Args:
            on: share them.
            in_phases: gradients are set aside between phases. What a sharded module has not shared is out of
                reach, and would come back in a later phase, so it shares them whenever there are phases.
        """
        if isinstance(self.called, DistributedDataParallel):
            self.called.require_backward_grad_sync = on
        elif isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(on or in_phases)

    def shadow(self) -> Component:
        """Return a frozen copy in eval mode, distributed like this one: a teacher."""
        sharded = self._empty is not None
        module = _emptied(self._empty, self._runtime.device) if self._empty else copy.deepcopy(self.module)
        shadow = Component(self.name, module.requires_grad_(False).eval(), self._runtime)
        if sharded:
            _shard(module, self._runtime)
            # No backward pass gives its gathered weights up, so the next forward pass would see old ones.
            module.register_forward_hook(lambda teacher, *_: teacher.reshard())
        own = self.local_state()
        with torch.no_grad():
            for name, value in shadow.local_state().items():
                value.copy_(own[name])
        return shadow

    def _like(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        return ((name, value) for name, value in self.module.state_dict().items() if name in state)


class Components(Mapping[str, Component]):
    """The components of a policy, in the order of the configuration.

    Attributes:
        called: name → what policies call.
    """

    def __init__(self, components: Iterable[Component]) -> None:
        self._components = {component.name: component for component in components}
        self.called = nn.ModuleDict({name: c.called for name, c in self._components.items()})

    def __getitem__(self, name: str) -> Component:
        return self._components[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._components)

    def __len__(self) -> int:
        return len(self._components)

    def compile(self, backend: str, mode: str) -> None:
        """Compile the forward pass of every component that trains, in place; names of weights stay."""
        options = {"mode": mode} if backend == "inductor" else {}
        for component in self.values():
            if component.trained:
                component.module.compile(backend=backend, **options)


def unwrap(module: nn.Module) -> nn.Module:
    """Return the component inside what a policy calls."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def local(value: Tensor) -> Tensor:
    """Return the rows of a tensor that this rank holds."""
    return value._local_tensor if isinstance(value, DTensor) else value


def is_sharded(optimizer: torch.optim.Optimizer) -> bool:
    """Say whether an optimizer works on shares of parameters."""
    return any(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"])


def whole(value: Tensor) -> Tensor:
    """Return a tensor with the rows of all ranks, which meet."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer with whole tensors. All ranks meet."""
    state: dict[str, Any] = optimizer.state_dict()
    moments = {
        index: {name: whole(value) if isinstance(value, Tensor) else value for name, value in one.items()}
        for index, one in state["state"].items()
    }
    return {**state, "state": moments}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take up what `full_optimizer_state` returned, under whatever strategy it was made."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {
            name: _distributed(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in one.items()
        }
        for index, one in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients down to a norm of at most `limit`, over all ranks, and return the norm before.

    Nothing waits for the device.
    """
    shares = [local(p.grad) for p in parameters if p.grad is not None]
    if not shares:
        return torch.tensor(0.0)
    # On a CPU `nn.utils.clip_grad_norm_` calls torch for one tensor at a time; the numbers are the same.
    norms = torch.stack(torch._foreach_norm(shares))
    sharded = [isinstance(p, DTensor) for p in parameters if p.grad is not None]
    norm = _norm_over_ranks(norms, sharded) if any(sharded) else torch.linalg.vector_norm(norms)
    torch._foreach_mul_(shares, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _norm_over_ranks(norms: Tensor, sharded: Sequence[bool]) -> Tensor:
    """Return the norm of tensors of which this rank knows the norms, of its share where they are sharded."""
    squares = norms.float().square()
    mask = torch.tensor(sharded, device=squares.device)
    of_all_ranks = torch.where(mask, squares, 0).sum()
    dist.all_reduce(of_all_ranks)
    return (of_all_ranks + torch.where(mask, 0, squares).sum()).sqrt()


def on_any_rank(flags: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """Return flags (numbers ≥ 0) that were found on shares of tensors, the largest of all ranks' ones."""
    if any(isinstance(t, DTensor) for t in tensors):
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return flags


def check_state(module: nn.Module, owner: str) -> None:
    """Make sure that all state of a module is tensors, which can be averaged, shared and published.

    Args:
        module: that with all modules in it.
        owner: what it is called in a sentence after its name.

    Raises:
        ValueError: a module has a `get_extra_state`, and which.
    """
    for key, part in module.named_modules():
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            raise ValueError(
                f"{type(part).__name__}{f' ({key})' if key else ''}{owner} keeps state by get_extra_state, "
                "which cannot be averaged or shared among ranks; keep it in buffers (register_buffer)"
            )


def _check_parameters(name: str, module: nn.Module, parallel: Parallel) -> None:
    for key, parameter in module.named_parameters():
        problem = None
        if isinstance(parameter, UninitializedParameter):
            problem = "gets its shape in the first step only, too late for several ranks; give it its sizes"
        elif parameter.is_complex():
            problem = "is complex, and such gradients are not shared; split it into two real ones"
        elif parallel == "fsdp" and parameter.ndim == 0:
            problem = "is a single number, which cannot be sharded; give it the shape (1,), or use ddp"
        if problem:
            raise ValueError(f"parameter {key} of component '{name}' {problem}")


def _shard(module: nn.Module, runtime: Runtime) -> None:
    """Let every rank keep its share of each parameter."""
    # torch goes backward from what comes out, and would miss a view that somebody changes in place.
    module.register_forward_hook(lambda _, __, output: tree_map(_own_memory, output))
    mesh = init_device_mesh(runtime.device.type, (runtime.world_size,))
    fully_shard(module, mesh=mesh)
    buffers = list(module.buffers())
    if buffers and runtime.distributed:
        # As DistributedDataParallel does: running statistics are those of rank 0.
        def of_main(*_: Any) -> None:
            if module.training:
                runtime.copy_from_main(list(module.buffers()))

        module.register_forward_pre_hook(of_main)


def _own_memory(value: Any) -> Any:
    """Return a tensor that is no view."""
    return value.clone() if isinstance(value, Tensor) and value._is_view() else value


def _emptied(module: nn.Module, device: torch.device | str) -> nn.Module:
    """Return a copy of a module with parameters on a device, which are zeros, or take no memory on `meta`."""
    parameters: dict[int, Any] = {
        id(p): nn.Parameter(torch.zeros_like(p, device=device), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    return copy.deepcopy(module, parameters)


def _distributed(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor in the form of another one."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    placed = value.to(device=like.device, dtype=like.dtype)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)


def _gathered(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    shares = DTensor.from_local(
        value, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return shares.full_tensor()
