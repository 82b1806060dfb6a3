"""`Update` against loops written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.engine.update import Update, UpdateSettings
from trainer.modeling.component import Component, Components, Parallel, whole
from trainer.runtime import Runtime
from trainer.templates import Context
from trainer.utils.random import RowRandom

CPU = torch.device("cpu")


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"actor": nn.Linear(3, 2), "critic": nn.Linear(2, 1)}


def optimizers(of: dict[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
    return {name: torch.optim.SGD(module.parameters(), lr=0.1) for name, module in of.items()}


def update_of(of: dict[str, nn.Module], parallel: Parallel = "none", **settings: object) -> Update:
    components = Components(Component(name, module, Runtime(CPU), parallel) for name, module in of.items())
    return Update(components, optimizers(of), UpdateSettings(**settings), CPU)  # type: ignore[arg-type]


def context(step: int = 0, micro_batch: int = 0, micro_batches: int = 1) -> Context:
    return Context(RowRandom([0]), True, step, micro_batch=micro_batch, micro_batches=micro_batches)


def batches(count: int) -> Tensor:
    return torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(1))


def actor_loss(of: Any, x: Tensor) -> Tensor:
    """Goes through the critic, whose gradients it must not leave behind."""
    return of["critic"](of["actor"](x)).mean()


def critic_loss(of: Any, x: Tensor) -> Tensor:
    return of["critic"](of["actor"](x).detach()).square().mean()


def weights(of: dict[str, nn.Module]) -> list[Tensor]:
    return [whole(p.detach()).clone() for module in of.values() for p in module.parameters()]


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    """A process group in which components can be sharded."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("parallel", ["none", "ddp", "fsdp"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_phases_are_a_loop_with_one_optimizer_each(micro_batches: int, parallel: Parallel) -> None:
    ours, by_hand = modules(), modules()
    update, steppers = update_of(ours, parallel), optimizers(by_hand)
    called = update.components.called
    for step in range(4):
        parts = batches(4 * micro_batches)[step * micro_batches : (step + 1) * micro_batches]
        for number, x in enumerate(parts):
            moment = context(step, number, micro_batches)
            for names, loss in ((("critic",), critic_loss), (("actor",), actor_loss)):
                update.begin(moment, names)
                update.backward(loss(called, x))
                found = update.finish()
                assert bool(found) == moment.last
        gradients: dict[str, list[Tensor]] = {}
        for name, loss in (("critic", critic_loss), ("actor", actor_loss)):
            # Until the last micro-batch of the critic's phase, both phases see the weights before the update.
            values = []
            for number, x in enumerate(parts):
                if name == "actor" and number == micro_batches - 1:
                    _apply(by_hand["critic"], gradients["critic"], steppers["critic"])
                values.append(torch.autograd.grad(loss(by_hand, x), list(by_hand[name].parameters())))
            gradients[name] = [torch.stack(one).mean(0) for one in zip(*values, strict=True)]
        _apply(by_hand["actor"], gradients["actor"], steppers["actor"])
    for one, other in zip(weights(ours), weights(by_hand), strict=True):
        torch.testing.assert_close(one, other)


def _apply(module: nn.Module, gradients: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def test_a_phase_of_what_has_no_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="component 'judge' has no optimizer; there are actor, critic"):
        update_of(modules()).begin(context(), ("judge",))


def test_hooks_hear_which_components_have_changed() -> None:
    ours, heard = modules(), []
    update = update_of(ours)
    update.after.append(heard.append)
    for number in range(2):
        update.begin(context(micro_batch=number, micro_batches=2), ("critic",))
        update.backward(critic_loss(ours, batches(1)[0]))
        update.finish()
    assert heard == [("critic",)]


def test_the_average_of_a_component_moves_with_its_own_updates() -> None:
    """Two updates of the critic, one of the actor: each average is the recursion of its own count."""
    ours = modules()
    update = update_of(ours, ema_decay=0.9)
    expected = {name: [p.detach().clone() for p in module.parameters()] for name, module in ours.items()}
    counts = dict.fromkeys(ours, 0)
    for names, loss in ((("critic",), critic_loss), (("actor",), actor_loss), (("critic",), critic_loss)):
        update.begin(context(), names)
        update.backward(loss(ours, batches(1)[0]))
        update.finish()
        (name,) = names
        keep = min(0.9, (1 + counts[name]) / (10 + counts[name]))
        live = [p.detach() for p in ours[name].parameters()]
        expected[name] = [keep * a + (1 - keep) * w for a, w in zip(expected[name], live, strict=True)]
        counts[name] += 1
    for name, average in update.averaged().items():
        for found, wanted in zip(average.values(), expected[name], strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("parallel", ["none", "ddp", "fsdp"])
def test_a_teacher_says_what_its_present_weights_say(parallel: Parallel) -> None:
    ours, x = modules(), batches(1)[0]
    update = update_of(ours, parallel)
    teacher = update.shadow("actor", 0.5)
    wanted = [whole(p.detach()).clone() for p in ours["actor"].parameters()]
    for step in range(3):
        with torch.no_grad():
            said = teacher(x)
        torch.testing.assert_close(said, nn.functional.linear(x, *wanted))
        update.begin(context(step))
        update.backward(actor_loss(update.components.called, x))
        update.finish()
        live = [whole(p.detach()) for p in ours["actor"].parameters()]
        wanted = [0.5 * old + 0.5 * new for old, new in zip(wanted, live, strict=True)]


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_teachers_need_a_decay_below_one(decay: float) -> None:
    with pytest.raises(ValueError, match="decay of a teacher"):
        update_of(modules()).shadow("critic", decay)
