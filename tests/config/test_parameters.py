"""Parameters are checked against what receives them, and converted once."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from trainer.config.errors import ParameterError
from trainer.config.parameters import (
    checked_parameters,
    convert_parameters,
    own_parameters,
    receivers,
)


class Policy:
    def __init__(self, models: Any, n_action_steps: int = 1, sigma: float = 0.1) -> None: ...


class Critic:
    def __init__(self, discount: float, sigma: float = 0.1) -> None: ...


class Trainer:
    parameters = (Policy, Critic)


def test_several_receivers_share_the_parameters_and_each_gets_its_own() -> None:
    given = {"n_action_steps": "2", "discount": "9e-1", "sigma": 1}
    converted, found = convert_parameters(given, receivers(Trainer), {"models"})
    assert found == []
    assert converted == {"n_action_steps": 2, "discount": 0.9, "sigma": 1.0}
    assert own_parameters(Policy, converted) == {"n_action_steps": 2, "sigma": 1.0}
    assert own_parameters(Critic, converted) == {"discount": 0.9, "sigma": 1.0}


@pytest.mark.parametrize(
    ("given", "param", "text"),
    [
        ({"discount": 0.9, "n_action_step": 1}, "n_action_step", "did you mean 'n_action_steps'?"),
        ({}, "discount", "this key is required"),
        ({"discount": "much"}, "discount", "valid number"),
        ({"discount": 0.9, "models": 1}, "models", "unknown key"),
    ],
)
def test_what_none_of_them_takes_is_refused(given: dict[str, Any], param: str, text: str) -> None:
    with pytest.raises(ParameterError, match=text) as caught:
        checked_parameters(given, receivers(Trainer), {"models"})
    assert caught.value.param == param


def test_true_and_false_are_no_numbers() -> None:
    def take(
        steps: int,
        rate: float,
        clip: float | dict[str, float] | None = None,
        sizes: list[int | str] | str | None = None,
        pair: tuple[float, float] = (0.0, 1.0),
        on: bool = False,
        either: bool | int = 0,
        anything: Any = None,
    ) -> None: ...

    wrong = {"steps": True, "rate": False, "clip": {"a": True}, "sizes": [1, True], "pair": [0.5, True]}
    right = {"on": True, "either": True, "anything": True}
    converted, found = convert_parameters({**wrong, **right, "more": 1}, take)
    assert converted is None
    assert {one.error_path: one.error_message for one in found} == {
        "steps": "input should be a number, not True",
        "rate": "input should be a number, not False",
        "clip.a": "input should be a number, not True",
        "sizes[1]": "input should be a number, not True",
        "pair[1]": "input should be a number, not True",
        "more": "unknown key",
    }
    converted, found = convert_parameters({"steps": 1, "rate": "2e-1", **right}, take)
    assert found == []
    assert converted == {"steps": 1, "rate": 0.2, "on": True, "either": True, "anything": True}


def test_a_value_that_fits_no_member_of_a_union_has_one_complaint_at_its_own_place() -> None:
    def take(episodes: list[int | str] | str | None = None, mode: Literal["a", "b"] = "a") -> None: ...

    _, found = convert_parameters({"episodes": [0.5]}, take)
    assert [one.error_path for one in found] == ["episodes[0]"]
    _, found = convert_parameters({"episodes": 3, "mode": "c"}, take)
    assert sorted(one.error_path for one in found) == ["episodes", "mode"]
