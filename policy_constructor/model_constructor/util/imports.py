"""Imports the modules that a configuration lists and lets them register what they bring."""

from __future__ import annotations

import importlib

from model_constructor.config.resolve import ResolvedConfig
from model_constructor.config.source_map import ConfigPath
from model_constructor.registry.registry import Registry
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest
from model_constructor.util.trust import is_trusted


def apply_imports(config: ResolvedConfig, registry: Registry, problems: Problems) -> None:
    """Import each module of `imports` and call its `register(registry)`, once per registry and module.

    Mistakes are noted in `problems`: imports switched off, a module outside the allowed packages, a module
    that cannot be imported, a `register` that fails.
    """
    names = config.data.get("imports")
    settings = config.settings
    if not isinstance(names, list):
        return
    for index, name in enumerate(names):
        path: ConfigPath = ("imports", index)
        location = config.source_map.nearest(path)
        if not isinstance(name, str) or not name:
            continue
        if not settings.allow_imports:
            problems.add(f"import of '{name}' is disabled by settings.allow_imports", path, location)
        elif not settings.allows_module(name):
            problems.add(
                f"import of '{name}' is not allowed by settings.allowed_import_prefixes, which are "
                f"{', '.join(settings.allowed_import_prefixes) or 'none'}",
                path,
                location,
                closest(name, settings.allowed_import_prefixes),
            )
        elif not is_trusted(name):
            problems.add(f"import of '{name}' is not trusted by whoever builds this", path, location)
        else:
            try:
                module = importlib.import_module(name)
                register = getattr(module, "register", None)
            except Exception as error:
                problems.add(f"failed to import '{name}': {type(error).__name__}: {error}", path, location)
                continue
            if registry.applied_imports.get(name) is module:
                continue
            try:
                if callable(register):
                    register(registry)
            except Exception as error:
                problems.add(
                    f"register() of '{name}' failed: {type(error).__name__}: {error}", path, location
                )
                continue
            registry.applied_imports[name] = module
