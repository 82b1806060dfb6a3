"""What is copied while training goes on is one moment of it, and copying changes nothing."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.checkpoint import staging as snapshot
from trainer.checkpoint.staging import Copies, HostCopier, TornError, deployed_in_place

WIDTH = 200  # a weight of 160 kB: more than is copied at once


@pytest.fixture
def slow_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy in a hundred pieces, with a pause after each, so that a careless step would tear the copy."""

    def slowly(target: Tensor, source: Tensor) -> None:
        for to, piece in zip(target.view(-1).chunk(100), source.reshape(-1).chunk(100), strict=True):
            to.copy_(piece)
            time.sleep(0.001)

    monkeypatch.setattr(snapshot, "copy_tensor", slowly)


class Run:
    """Two layers, each with an optimizer of its own; the second learns from what the first has become."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.optimizers = [torch.optim.AdamW(layer.parameters(), lr=0.1) for layer in self.layers]
        self.data = torch.randn(4, WIDTH)
        self.copier = HostCopier(torch.device("cpu"))
        self.copier.guard(self.optimizers)

    def step(self) -> None:
        """Step the first optimizer before the other's gradients are even computed."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        for layer, optimizer in zip(self.layers, self.optimizers, strict=True):
            layer(self.data).square().mean().backward()
            optimizer.step()

    def state(self) -> dict[str, Any]:
        return {"model": self.layers.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}

    def late(self) -> Iterator[Tensor]:
        yield from self.layers.parameters()
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                yield from state.values()


def flat(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return [tensor for value in values for tensor in flat(value)]


def taken(run: Run) -> tuple[Any, Copies]:
    copies = run.copier.begin(run.late())
    state = copies.later(run.state())
    copies.start()
    return state, copies


def test_a_step_right_after_the_snapshot_cannot_tear_it(slow_copies: None) -> None:
    run, alone = Run(), Run()
    for _ in range(3):
        run.step()
        alone.step()
        before = copy.deepcopy(flat(run.state()))
        state, copies = taken(run)
        run.step()
        alone.step()
        copies.finish()
        copies.check()
        for saved, wanted in zip(flat(state), before, strict=True):
            assert torch.equal(saved, wanted)
        copies.release()
    for ours, theirs in zip(flat(run.state()), flat(alone.state()), strict=True):
        assert torch.equal(ours, theirs)


def test_the_snapshot_returns_before_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    run, go = Run(), threading.Event()
    run.step()
    monkeypatch.setattr(snapshot, "copy_tensor", lambda to, source: go.wait() and to.copy_(source))
    state, copies = taken(run)
    assert not torch.equal(state["model"]["0.weight"], run.layers[0].weight)
    go.set()
    copies.finish()
    assert torch.equal(state["model"]["0.weight"], run.layers[0].weight)
    copies.release()


def test_what_may_change_before_an_update_is_copied_at_once() -> None:
    run = Run()
    statistics = torch.randn(WIDTH, WIDTH)
    copies = run.copier.begin(run.late())
    state = copies.later({**run.state(), "statistics": statistics})
    wanted = statistics.clone()
    statistics.zero_()
    copies.start()
    copies.finish()
    copies.check()
    assert torch.equal(state["statistics"], wanted)


def test_a_weight_that_changes_outside_of_updates_is_noticed_and_copied_at_once_from_then_on() -> None:
    run = Run()
    run.step()
    for written_before_update in (True, False):
        copies = run.copier.begin(run.late())
        state = copies.later(run.state())
        wanted = run.layers[0].weight.detach().clone()
        with torch.no_grad():
            run.layers[0].weight[3] = 1.0  # as a codebook does that gives its dead rows new values
        copies.start()
        copies.finish()
        run.step()
        if written_before_update:
            with pytest.raises(TornError, match="1 tensors changed outside of an update"):
                copies.check()
        else:
            copies.check()
            assert torch.equal(state["model"]["0.weight"], wanted)
        copies.release()


def test_what_occurs_twice_is_copied_once_and_memory_is_used_again() -> None:
    run = Run()
    average = {"weight": torch.randn(WIDTH, WIDTH)}
    places = set()
    for _ in range(3):
        copies = run.copier.begin(average.values())
        state = copies.later({"deployed": average, "trainer": {"weights": dict(average)}})
        copies.start()
        copies.finish()
        assert state["deployed"]["weight"] is state["trainer"]["weights"]["weight"]
        places.add(state["deployed"]["weight"].data_ptr())
        copies.release()
    assert len(places) == 1


def test_a_copy_that_fails_is_no_snapshot_and_stops_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(target: Tensor, source: Tensor) -> None:
        raise MemoryError("no memory")

    run = Run()
    run.step()
    monkeypatch.setattr(snapshot, "copy_tensor", fail)
    _, copies = taken(run)
    run.step()
    with pytest.raises(MemoryError):
        copies.finish()


def test_memory_is_there_before_it_is_needed() -> None:
    run = Run()
    run.step()
    run.copier.prepare(run.late())
    copies = run.copier.begin(run.late())
    ready = {b.data_ptr() for buffers in run.copier._buffers.values() for b in buffers}
    state = copies.later(run.state())
    assert state["model"]["0.weight"].data_ptr() in ready
    copies.release()


def test_a_snapshot_that_is_never_written_stops_no_update() -> None:
    run = Run()
    run.step()
    copies = run.copier.begin(run.late())
    copies.later(run.state())
    copies.release()
    run.step()


def test_weights_are_deployed_from_a_schedule_free_optimizer_without_changing_the_run() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    torch.manual_seed(0)
    layer, data = nn.Linear(WIDTH, 7), torch.randn(16, WIDTH)
    optimizer = schedulefree.AdamWScheduleFree(layer.parameters(), lr=0.03, warmup_steps=3)
    with deployed_in_place(optimizer) as differs:
        assert not differs, "before the first step there is one kind of weights"
    for _ in range(5):
        optimizer.train()
        layer(data).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    other, other_optimizer = copy.deepcopy((layer, optimizer))
    other_optimizer.eval()
    before = copy.deepcopy([layer.state_dict(), optimizer.state_dict()])
    with deployed_in_place(optimizer) as differs:
        assert differs
        assert torch.equal(layer.weight, other.weight)
    for now, then in zip(flat([layer.state_dict(), optimizer.state_dict()]), flat(before), strict=True):
        assert torch.equal(now, then)
    assert optimizer.param_groups[0]["train_mode"]
