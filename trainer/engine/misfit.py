"""What makes a forward pass fail, as a mistake with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping

from model_constructor import ConfigPath
from torch import nn

from trainer.config.errors import ConfigError
from trainer.config.validation import Issues
from trainer.engine.check import CheckedConfig
from trainer.engine.places import place_in_notes, place_of_input
from trainer.engine.rehearsal import explain
from trainer.modeling.observations import MissingObservation

_OF_SHAPES = re.compile(
    r"shapes cannot be multiplied|same reduction dim|must match|size mismatch|to have \d+ channels"
    r"|normalized_shape"
)


def misfit(checked: CheckedConfig, modules: Mapping[str, nn.Module], error: Exception) -> ConfigError:
    """Return the mistake that makes the first forward pass fail, in a model YAML if it comes from there.

    Args:
        checked: the configuration.
        modules: its components.
        error: what the pass raised.
    """
    path: ConfigPath = ("train", "trainer")
    message, location = f"the first forward pass fails: {explain(error)}", place_in_notes(error)
    if isinstance(error, MissingObservation):
        name = next(name for name, module in modules.items() if module is error.module)
        path = ("model", "component_config_paths", name)
        location = place_of_input(checked.component_paths[name], error.input)
    issues = Issues(checked.located)
    issues.add_in_model(path, message, location)
    return ConfigError(issues.found)


def is_certain(error: Exception) -> bool:
    """Say whether a pass without numbers would fail with them too: shapes or inputs do not fit."""
    return isinstance(error, MissingObservation) or bool(_OF_SHAPES.search(str(error)))
