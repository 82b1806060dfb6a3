"""Names for what plugins add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.registry import LOSS_BUILDER_REGISTRY, PluginError, Registry, load_plugins
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


def test_the_nearest_of_a_missing_plugin_leads_somewhere(tmp_path: Path) -> None:
    (tmp_path / "my_plugin.py").touch()
    (tmp_path / "robots").mkdir()
    (tmp_path / "robots/__init__.py").touch()
    with pytest.raises(PluginError) as raised:
        load_plugins(["my_plugins"], tmp_path)
    assert raised.value.hint == "did you mean 'my_plugin'?"
    with pytest.raises(PluginError) as raised:
        load_plugins(["my_plugins.data"], tmp_path)  # a module has no `data` in it
    assert raised.value.hint is None
    with pytest.raises(PluginError) as raised:
        load_plugins(["robot.data"], tmp_path)
    assert raised.value.hint == "did you mean 'robots.data'?"
