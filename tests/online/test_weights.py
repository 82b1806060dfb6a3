"""Weights as arrays: they arrive bit for bit, or rounded where asked, and tell which policy they fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.checkpoint.folder import CheckpointError
from trainer.online.weights import architecture_of, pack, read_state, unpack, write_state
from trainer.utils.errors import UsageError


def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "encoder": {
            "weight": torch.randn(3, 4, generator=generator),
            "half": torch.randn(5, generator=generator).bfloat16(),
            "count": torch.tensor(7),
        },
        "": {"scale": torch.tensor(0.5, dtype=torch.float64)},
    }


def test_what_is_packed_comes_back():
    back = unpack(pack(weights()))
    for component, state in weights().items():
        for name, value in state.items():
            assert back[component][name].dtype == value.dtype
            assert torch.equal(back[component][name], value)


def test_rounded_weights_take_half_as_many_bytes():
    packed = pack(weights(), bf16=True)
    assert packed["encoder"]["weight"].nbytes == 3 * 4 * 2
    back = unpack(packed)["encoder"]
    assert torch.equal(back["weight"], weights()["encoder"]["weight"].bfloat16())
    assert torch.equal(back["count"], torch.tensor(7))
    assert back["weight"].dtype == torch.bfloat16
    once_more = pack({"encoder": {"weight": packed["encoder"]["weight"]}}, bf16=True)
    assert once_more["encoder"]["weight"] is packed["encoder"]["weight"]


def test_arrays_that_cannot_be_written_to_are_taken_without_a_warning(recwarn):
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    assert torch.equal(unpack({"a": {"b": array}})["a"]["b"], torch.ones(3))
    assert not recwarn.list


def test_an_architecture_is_names_shapes_and_types():
    one = architecture_of(pack(weights()))
    assert architecture_of(pack(weights(), bf16=True)) == one  # how they travel does not matter
    assert architecture_of(weights()) == one
    changed = [weights() for _ in range(4)]
    changed[0]["encoder"]["weight"] = torch.randn(4, 3)
    changed[1]["encoder"]["count"] = torch.tensor(7.0)
    changed[2]["encoder"]["bias"] = torch.zeros(3)
    changed[3]["decoder"] = changed[3].pop("encoder")
    assert len({architecture_of(other) for other in changed} | {one}) == 5


def test_a_version_lies_on_disk_as_it_was(tmp_path):
    state = {"version": 3, "architecture": "a", "step": 12, "time": 1.5, "weights": pack(weights(), True)}
    write_state(tmp_path / "latest.pt", state)
    back = read_state(tmp_path / "latest.pt")
    assert {k: v for k, v in back.items() if k != "weights"} == {
        k: v for k, v in state.items() if k != "weights"
    }
    for name, value in state["weights"]["encoder"].items():
        np.testing.assert_array_equal(back["weights"]["encoder"][name], value)
    (tmp_path / "latest.pt").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"latest\.pt cannot be read as a state of tensors"):
        read_state(tmp_path / "latest.pt")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ([1, 2], "not a list; send {component: state_dict}"),
        ({"encoder": [1]}, "weights are a mapping of components to mappings"),
        ({"encoder": {"weight": "many"}}, r"the weights hold a str at encoder\.weight"),
    ],
)
def test_something_else_is_no_weights(wrong, text):
    with pytest.raises(UsageError, match=text):
        pack(wrong)
