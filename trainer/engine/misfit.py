"""What makes a forward pass fail, as a mistake with its place."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from model_constructor import ConfigPath, GraphModel
from torch import Tensor, nn

from trainer.config.errors import ConfigError
from trainer.config.validation import Issues
from trainer.engine.check import CheckedConfig
from trainer.engine.places import declared_size, place_in_notes, place_of_input
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
    for (name, argument), size in _given(modules, error).items():
        declared, place = declared_size(checked.component_paths[name], argument)
        if declared and not _fits(size, declared):
            path, location = ("model", "component_config_paths", name), place
            says = ", ".join(map(str, declared))
            message = f"'{argument}' comes as {list(size)}, and the `shapes` here say [{says}]; {message}"
    if isinstance(error, MissingObservation):
        name = next(name for name, module in modules.items() if module is error.module)
        path = ("model", "component_config_paths", name)
        location = place_of_input(checked.component_paths[name], error.input)
    issues = Issues(checked.located)
    issues.add_in_model(path, message, location)
    return ConfigError(issues.found)


def _given(modules: Mapping[str, nn.Module], error: BaseException) -> dict[tuple[str, str], tuple[int, ...]]:
    """Return by component and input the sizes of the tensors with which the pass failed."""
    names = {id(module): name for name, module in modules.items() if isinstance(module, GraphModel)}
    given: dict[tuple[str, str], tuple[int, ...]] = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        values = frame.f_locals
        called: Any = values.get("self")
        if id(called) in names and {"args", "kwargs"} <= values.keys():
            inputs = {**dict(zip(called.inputs, values["args"], strict=False)), **values["kwargs"]}
            for argument, value in inputs.items():
                if isinstance(value, Tensor):
                    given[names[id(called)], argument] = tuple(value.shape)
    return given


def _fits(size: tuple[int, ...], declared: Sequence[object]) -> bool:
    """Say whether a tensor has the sizes that its file declares, of which some are names, such as B."""
    return len(size) == len(declared) and all(
        not isinstance(wanted, int) or wanted == there for there, wanted in zip(size, declared, strict=True)
    )


def is_certain(error: Exception) -> bool:
    """Say whether a pass without numbers would fail with them too: shapes or inputs do not fit."""
    return isinstance(error, MissingObservation) or bool(_OF_SHAPES.search(str(error)))
