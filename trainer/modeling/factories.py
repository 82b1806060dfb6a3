"""The model factory: component YAMLs in, `GraphModel`s out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn


class PolicyConstructorModelFactory:
    """Builds components through `model_constructor`."""

    def build(self, cfg: Mapping[str, Any]) -> nn.Module | nn.ModuleDict:
        """Build one model or several.

        Args:
            cfg: `{"config_path": path}` or `{"config": mapping}` for a single model; otherwise
                component name → path of its YAML.

        Returns:
            The single model, or an `nn.ModuleDict` of `GraphModel`s by component name, in the order of `cfg`.

        Raises:
            ValueError: nothing is asked for.
            model_constructor.errors.ConfigError: a model YAML is wrong, and where.
        """
        from model_constructor import build_model

        if not cfg:
            raise ValueError("no component is named, so there is no model to build")
        if "config_path" in cfg:
            return build_model(Path(cfg["config_path"]))
        if "config" in cfg:
            return build_model(dict(cfg["config"]))
        return nn.ModuleDict({name: build_model(Path(path)) for name, path in cfg.items()})
