"""Which parameters can be shared among ranks, said before anything is trained."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from trainer.modeling.component import Component, Parallel
from trainer.runtime import Runtime


class Wave(nn.Module):
    """Has a parameter of the given kind, in a module of its own."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.phase = nn.Parameter(value)


@pytest.mark.parametrize(
    ("module", "parallel", "message"),
    [
        (Wave(torch.ones(3, dtype=torch.complex64)), "ddp", "inner.phase of component 'eye' is complex"),
        (Wave(torch.ones(3, dtype=torch.complex64)), "fsdp", "inner.phase of component 'eye' is complex"),
        (nn.Sequential(nn.LazyLinear(3)), "ddp", "0.weight of component 'eye' gets its shape in the first"),
        (Wave(torch.tensor(1.0)), "fsdp", "inner.phase of component 'eye' is a single number, which cannot"),
    ],
    ids=["complex ddp", "complex fsdp", "lazy", "single number"],
)
def test_a_parameter_that_ranks_cannot_share_is_named(
    module: nn.Module, parallel: Parallel, message: str
) -> None:
    runtime = Runtime(torch.device("cpu"), world_size=2)
    with pytest.raises(ValueError, match=f"^parameter {re.escape(message)}"):
        Component("eye", module, runtime, parallel)
    # Alone, or where nothing is trained, there is nobody to share it with.
    assert Component("eye", module, runtime).trained
    for parameter in module.parameters():
        parameter.requires_grad = False
    assert not Component("eye", module, runtime, parallel).trained
