"""A copy of a state is one moment of it, in memory that is used again."""

from __future__ import annotations

import torch

from trainer.checkpoint.host_memory import HostMemory


def test_what_changes_right_after_the_copy_is_not_in_it() -> None:
    weight, memory = torch.randn(300, 300), HostMemory()
    copied = memory.copy({"model": {"weight": weight}, "step": 3, "lr": [0.1]})
    wanted = weight.clone()
    weight[3] = 1.0  # as a codebook does that gives its dead rows new values
    weight.data.mul_(2)
    memory.wait()
    assert torch.equal(copied["model"]["weight"], wanted)
    assert copied["step"] == 3
    assert copied["lr"] == [0.1]


def test_what_occurs_twice_is_copied_once_and_memory_is_used_again() -> None:
    memory, average = HostMemory(), {"weight": torch.randn(200, 200), "bias": torch.zeros(200)}
    places = set()
    for number in range(3):
        average["bias"] += 1
        memory.reuse()
        early = memory.copy({"bias": average["bias"]})
        state = memory.copy({"deployed": average, "trainer": {"weights": dict(average)}})
        assert state["deployed"]["weight"] is state["trainer"]["weights"]["weight"]
        assert torch.equal(early["bias"], torch.full((200,), number + 1.0))
        assert early["bias"] is not state["deployed"]["bias"]
        places.add(state["deployed"]["weight"].data_ptr())
    assert len(places) == 1


def test_copies_keep_what_they_are() -> None:
    sources = {
        "transposed": torch.randn(4, 6).t(),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.empty(0, 3),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    for name, copied in HostMemory().copy(sources).items():
        assert torch.equal(copied, sources[name])
        assert copied.dtype == sources[name].dtype
        assert not copied.requires_grad
