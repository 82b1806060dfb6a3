"""Padding in the loss of a policy whose networks are given noised actions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.proving import claims_of

from trainer.registry import TRAINER_REGISTRY

Write = Callable[..., Path]
TEXT = "padding does not count in the loss"


def with_its_policy(path: Path) -> tuple[Path, Any]:
    """Return an experiment and the class of its policy, which its plugins bring."""
    claims_of(path)
    return path, TRAINER_REGISTRY.get("state_flow_matching_trainer").policy_class  # type: ignore[attr-defined]


def test_a_flow_that_leaves_padding_out_is_not_trained_there(tiny_experiment: Write) -> None:
    claim = claims_of(tiny_experiment())[TEXT]
    assert claim.verdict == "holds"
    assert claim.measured.startswith("gradient 0 at ")


def test_a_flow_that_is_trained_on_padding_by_mistake_is_found(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, policy = with_its_policy(tiny_experiment())
    monkeypatch.setattr(policy, "left_out", lambda self, batch: None)
    claim = claims_of(path)[TEXT]
    assert claim.verdict == "fails"
    assert claim.faults[0].message == (
        "the loss of StateFlowMatchingPolicy trains what is predicted for steps that are padding"
    )
    assert claim.faults[0].path == ("train", "trainer")


def test_padding_that_is_asked_for_is_no_fault(tiny_experiment: Write) -> None:
    claim = claims_of(tiny_experiment(), ["train.trainer.params.train_on_padding=true"])[TEXT]
    assert (claim.verdict, claim.measured) == ("does not apply", "train_on_padding asks for it")


def test_a_policy_that_trains_on_padding_by_default_is_no_fault(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, policy = with_its_policy(tiny_experiment())
    signature = inspect.signature(policy)
    default = signature.parameters["train_on_padding"].replace(default=True)
    parameters = [default if one.name == default.name else one for one in signature.parameters.values()]
    monkeypatch.setattr(policy, "__signature__", signature.replace(parameters=parameters), raising=False)
    monkeypatch.setattr(policy, "left_out", lambda self, batch: None)
    assert claims_of(path)[TEXT].verdict == "does not apply"
    assert claims_of(path, ["train.trainer.params.train_on_padding=false"])[TEXT].verdict == "fails"
