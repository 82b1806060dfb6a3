"""Before a component is trained: initialised, frozen, counted; and what an encoder is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.modeling.initialize import count_parameters, freeze, init_weights
from trainer.modeling.observations import encoder_arguments


def test_initial_weights_are_xavier_for_convolutions_and_kaiming_for_linear_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Linear(400, 300))
    nn.init.constant_(model[1].weight, 5.0)
    init_weights(model)
    limit = (6 / (9 * 64 + 9 * 128)) ** 0.5
    assert model[0].weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert model[2].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert all(torch.count_nonzero(layer.bias) == 0 for layer in (model[0], model[1], model[2]))
    assert torch.equal(model[1].weight, torch.ones(128))


def test_layers_that_keep_their_own_start_are_left_alone() -> None:
    gate = nn.Linear(3, 3)
    nn.init.zeros_(gate.weight)
    gate.keep_init = True  # type: ignore[assignment]
    init_weights(nn.Sequential(gate))
    assert torch.count_nonzero(gate.weight) == 0


def test_frozen_components_take_no_gradients_and_stay_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    freeze(model)
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    assert count_parameters(model) == (6, 0)


class Encoder(nn.Module):
    inputs = ("state", "images_cam_head")


def test_the_names_of_graph_inputs_choose_the_observations() -> None:
    batch = {
        "observation.state": 1,
        "observation.images.cam_head": 2,
        "observation.images.cam_left": 3,
        "observation.state_is_pad": 4,
        "action": 5,
    }
    assert encoder_arguments(Encoder(), batch) == {"state": 1, "images_cam_head": 2}


def test_an_input_without_observation_is_named() -> None:
    with pytest.raises(ValueError, match="'images_cam_head' has no observation; the batch has state"):
        encoder_arguments(Encoder(), {"observation.state": 1})
