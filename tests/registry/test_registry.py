"""Names for what plugins add."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.registry import LOSS_BUILDER_REGISTRY, Registry
from trainer.templates import LossFactory


class Good:
    def build(self) -> Any: ...


class Bad: ...


def test_a_class_is_found_under_its_key_or_its_name() -> None:
    registry: Registry[Any] = Registry("thing")
    registry.register("good")(Good)
    registry.register()(Bad)
    assert registry.get("good") is Good
    assert registry.keys() == ["Bad", "good"]
    assert registry.has("Bad")


def test_a_taken_key_and_an_unknown_key_are_refused() -> None:
    registry: Registry[Any] = Registry("thing")
    registry.add("x", Good)
    registry.add("x", Good)
    with pytest.raises(KeyError, match="thing registry already has key 'x'"):
        registry.add("x", Bad)
    with pytest.raises(KeyError, match=r"thing registry has no key 'y'\. Available: \['x'\]"):
        registry.get("y")


def test_a_class_without_the_methods_of_its_protocol_is_refused() -> None:
    registry: Registry[Any] = Registry("loss_builder", LossFactory)
    with pytest.raises(TypeError, match="as loss_builder 'bad': it lacks build of LossFactory"):
        registry.add("bad", Bad)
    assert LOSS_BUILDER_REGISTRY.name == "loss_builder"
