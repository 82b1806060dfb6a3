"""mlp, conv_bn_act, residual_block against plain torch."""

import pytest
import torch
from model_constructor import build_model
from model_constructor.blocks.basic import MLP, ConvBNAct, ResidualBlock
from torch import nn


def test_mlp_is_a_stack_of_linear_layers():
    block = MLP(dims=[3, 5, 6, 2], activation=nn.Tanh(), final_activation=nn.Sigmoid())
    names = [type(layer).__name__ for layer in block.net]
    assert names == ["Linear", "Tanh", "Linear", "Tanh", "Linear", "Sigmoid"]
    x = torch.randn(4, 7, 3)
    expected = x
    for layer in block.net:
        expected = layer(expected)
    assert torch.equal(block(x), expected)
    assert block(x).shape == (4, 7, 2)
    assert list(MLP(dims=[3, 5, 2]).state_dict()) == [
        "net.0.weight",
        "net.0.bias",
        "net.2.weight",
        "net.2.bias",
    ]
    dropped = MLP(dims=[3, 5, 2], dropout=0.5, bias=False)
    assert [type(layer).__name__ for layer in dropped.net] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert list(dropped.state_dict()) == ["net.0.weight", "net.3.weight"]


def test_mlp_takes_its_width_from_the_first_batch():
    block = MLP(dims=[None, 4])
    assert block(torch.randn(2, 9)).shape == (2, 4)
    assert block.net[0].weight.shape == (4, 9)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"dims": [3]}, "at least"),
        ({"dims": "33"}, "at least"),
        ({"dims": 3}, "at least"),
        ({"dims": [3, None]}, r"dims\[1\]"),
        ({"dims": [0, 1]}, r"dims\[0\]"),
        ({"dims": [1, 2.5]}, r"dims\[1\]"),
        ({"dims": [1, True]}, r"dims\[1\]"),
        ({"dims": [1, 2], "dropout": 1.0}, "dropout"),
    ],
)
def test_mlp_refuses(arguments, fragment):
    with pytest.raises(ValueError, match=fragment):
        MLP(**arguments)


def test_conv_bn_act_against_torch():
    block = ConvBNAct(in_channels=3, out_channels=6, stride=2, padding=1)
    x = torch.randn(2, 3, 8, 8)
    expected = nn.functional.conv2d(x, block.conv.weight, block.conv.bias, stride=2, padding=1)
    expected = nn.functional.batch_norm(expected, None, None, training=True).relu()
    assert torch.allclose(block(x), expected, atol=1e-6)
    assert "conv.bias" in block.state_dict()
    assert "conv.bias" not in ConvBNAct(in_channels=3, out_channels=6, norm=nn.GroupNorm(2, 6)).state_dict()
    assert "conv.bias" in ConvBNAct(in_channels=3, out_channels=6, norm=nn.Identity(), bias=True).state_dict()
    assert ConvBNAct(in_channels=None, out_channels=6)(x).shape == (2, 6, 6, 6)


def test_residual_block():
    same = ResidualBlock(in_channels=4)
    assert isinstance(same.skip, nn.Identity)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(same(x), (same.main2(same.main1(x)) + x).relu())
    other = ResidualBlock(in_channels=4, out_channels=6, stride=2, act=nn.ELU())
    assert other(x).shape == (2, 6, 4, 4)
    prefixes = {key.rsplit(".", 2)[0] for key in other.state_dict()}
    assert prefixes == {"main1", "main2", "skip"}
    assert isinstance(other.main2.act, nn.Identity)


def test_they_are_known_by_name():
    layers = [
        {"_type_": "conv_bn_act", "in_channels": 3, "out_channels": 4},
        {"_type_": "residual_block", "in_channels": 4, "out_channels": 8, "stride": 2},
        {"_type_": "nn.Flatten"},
        {"_type_": "mlp", "dims": [8 * 3 * 3, 5]},
    ]
    model = build_model({"schema_version": 1, "model": {"sequential": {"layers": layers}}})
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)
