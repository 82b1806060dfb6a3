"""Blocks take their random numbers from the source that whoever runs them gives."""

from __future__ import annotations

import contextvars
import threading

import pytest
import torch
from model_constructor import build_model, random_source
from model_constructor.blocks.flow_decoders import NoisyTopKGate
from model_constructor.random import current_source, randn_like, shared_uniform

from trainer.utils.random import SampleRandom

NOISY = {
    "schema_version": 1,
    "model": {
        "graph": {
            "inputs": ["x"],
            "modules": {"layer": {"_type_": "nn.Linear", "in_features": 3, "out_features": 3}},
            "nodes": [
                {"name": "y", "call": "module:layer", "args": ["$x"]},
                {"name": "first", "call": "op:randn_like", "args": ["$y"]},
                {"name": "second", "call": "op:randn_like", "args": ["$y"]},
                {"name": "sum", "call": "op:add", "args": ["$y", "$first"]},
                {"name": "z", "call": "op:mul", "args": ["$sum", "$second"]},
            ],
            "outputs": ["z"],
        }
    },
}


class Counting:
    """Numbers that tell which draw they come from: 1, 2, …"""

    def __init__(self) -> None:
        self.draws = 0

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        self.draws += 1
        return torch.full(shape, float(self.draws), dtype=torch.float64)

    def uniform(self, shape: tuple[int, ...], *, shared: bool = False) -> torch.Tensor:
        assert shared
        return torch.full(shape, 0.25)


def test_a_graph_draws_from_the_source_and_afterwards_from_torch_again():
    model, x = build_model(NOISY), torch.randn(4, 3)
    with random_source(Counting()):
        assert torch.equal(model(x), (model.graph_modules["layer"](x) + 1) * 2)
    torch.manual_seed(5)
    got = model(x)
    torch.manual_seed(5)
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.equal(got, (model.graph_modules["layer"](x) + first) * second)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_graph_draws_anew_at_every_call(backend):
    torch._dynamo.reset()
    model, x = build_model(NOISY), torch.randn(4, 3)
    compiled = torch.compile(model, backend=backend)
    compiled(x)  # compiled without a source first, which must not stay so
    source = Counting()
    with random_source(source):
        outputs = [compiled(x), compiled(x)]
    y = model.graph_modules["layer"](x)
    torch.testing.assert_close(outputs[0], (y + 1) * 2)
    torch.testing.assert_close(outputs[1], (y + 3) * 4)
    outputs[1].sum().backward()
    assert source.draws == 4, "the backward pass drew again"
    torch.testing.assert_close(model.graph_modules["layer"].bias.grad, torch.full((3,), 16.0))
    assert compiled(x).std() != compiled(x).std(), "without a source the numbers are torch's"


def test_without_a_source_a_graph_compiles_whole_and_exports():
    torch._dynamo.reset()
    model, x = build_model(NOISY), torch.randn(4, 3)
    assert torch.compile(model, backend="eager", fullgraph=True)(x).shape == (4, 3)
    assert torch.export.export(model, (x,)).module()(x).shape == (4, 3)


def test_the_gate_adds_the_noise_of_the_source():
    gate = NoisyTopKGate(input_dim=4, num_experts=3, temperature=1.0, top_k=3)
    torch.nn.init.normal_(gate.noise_scale.weight)
    z = torch.randn(5, 4)

    class Given(Counting):
        def normal(self, shape):
            return noise

    noise = torch.randn(5, 3)
    with random_source(Given()):
        got = gate(z, iterations=0, training=True, use_noise=True)
    expected = noise * torch.nn.functional.softplus(z @ gate.noise_scale.weight.T)
    torch.testing.assert_close(got, expected.softmax(-1))


def test_two_ranks_see_the_numbers_of_one():
    """With the numbers of samples, blocks that draw come to the same on any number of ranks."""
    gate = NoisyTopKGate(input_dim=4, num_experts=3, temperature=1.0, top_k=2)
    torch.nn.init.normal_(gate.noise_scale.weight)
    model, z = build_model(NOISY), torch.randn(6, 5, 3)

    def run(rank: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = z.chunk(ranks)[rank]
        with torch.no_grad(), random_source(SampleRandom(3, 5, rank, ranks)):
            noisy = model(rows.flatten(0, 1)).view(rows.shape)
            return noisy, gate(torch.nn.functional.pad(noisy, (0, 1)), 0, training=True, use_noise=True)

    for whole, parts in zip(run(0, 1), zip(*(run(rank, 3) for rank in range(3)), strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), whole)


def test_numbers_take_the_type_and_the_device_of_the_tensor():
    with random_source(Counting()):
        assert randn_like(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert randn_like(torch.zeros(2, device="meta")).device.type == "meta"
        assert shared_uniform((2,), torch.device("meta")).device.type == "meta"


def test_the_innermost_source_counts():
    outer, inner = Counting(), Counting()
    with random_source(outer):
        with random_source(inner):
            assert current_source() is inner
        assert current_source() is outer
    assert current_source() is None


def test_an_error_ends_a_source():
    with pytest.raises(RuntimeError, match="size"), random_source(Counting()):
        torch.zeros(2) + torch.zeros(3)
    assert current_source() is None


def test_another_thread_does_not_see_the_source():
    seen = []

    def other() -> None:
        torch.manual_seed(1)
        seen.append(randn_like(torch.zeros(3)))

    with random_source(Counting()):
        thread = threading.Thread(target=contextvars.Context().run, args=(other,))
        thread.start()
        thread.join()
    torch.manual_seed(1)
    assert torch.equal(seen[0], torch.randn(3))
