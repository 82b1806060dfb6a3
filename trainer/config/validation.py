"""Checking a raw configuration against schema and signatures; every mistake is kept, with its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_constructor import ConfigPath, SourceLocation, did_you_mean, format_path

from trainer.config.errors import ConfigError, ConfigValidationIssue
from trainer.config.loader import LocatedConfig
from trainer.config.parameters import Target, convert_parameters
from trainer.config.schemas import ExperimentConfig
from trainer.config.validated import UNKNOWN_KEY, validated

_ELSEWHERE = {
    "model.config_path": "components stand under model.component_config_paths",
    "train.amp": "use `precision: bf16` or `precision: fp16` at the top level",
    "train.batch_size": "it stands at `data.batch_size`",
    "train.max_epochs": "use train.epoch",
    "train.model_input": "components are called with named inputs; their graphs say which",
    "train.scheduler": "schedules live in the optimizers, such as adamw_warmup_cosine_decay",
    "train.precision": "it stands at the top level",
    "train.device": "it stands at the top level",
    "train.checkpoint.save_dir": "use train.save_dir",
    "train.checkpoint.save_every_n_epochs": "use train.save_every",
}
"""Keys that users know from elsewhere, and what to write."""


def validate_config(raw: dict[str, Any]) -> ExperimentConfig:
    """Turn a raw mapping into an `ExperimentConfig`.

    Raises:
        ConfigError: all mistakes; without positions, since a mapping has none.
    """
    issues = Issues(LocatedConfig(raw))
    config = validate_schema(issues)
    issues.raise_if_any()
    assert config is not None
    return config


def mistake(located: LocatedConfig, path: ConfigPath, message: str, hint: str | None = None) -> ConfigError:
    """Return the error for one mistake that only shows while the experiment is put together."""
    issues = Issues(located)
    issues.add(path, message, hint)
    return ConfigError(issues.found)


class Issues:
    """Collects mistakes and knows where each value stands."""

    def __init__(self, located: LocatedConfig) -> None:
        self.located = located
        self.found: list[ConfigValidationIssue] = []

    def add(self, path: ConfigPath, message: str, hint: str | None = None, of_key: bool = False) -> None:
        """Note one mistake at a config path: of its value, or of its key."""
        location = self.located.locate(path, of_key)
        chain = self.located.chain(location)
        self.found.append(
            ConfigValidationIssue(format_path(path), message, hint, location, chain, path, of_key)
        )

    def tell_how_to_take_back(self) -> None:
        """Add to the last mistake, an unknown parameter, what to write if a file above has another `type`."""
        last = self.found[-1]
        named = self.located.locate((*last.path[:-2], "type"))
        if named is not None and named.file in last.origin[:-1]:
            how = f"`{last.path[-1]}: null` in {Path(named.file).name} takes it back"
            self.found[-1] = replace(last, hint=f"{last.hint}; {how}" if last.hint else how)

    def add_in_model(
        self,
        path: ConfigPath,
        message: str,
        location: SourceLocation | None,
        hint: str | None = None,
        stack: Sequence[str] = (),
    ) -> None:
        """Note one mistake at its place in the model YAML that the value at a config path leads to.

        Where that place is not known, it is noted at the value itself. `stack` are the files whose `defaults`
        lead to that place, outermost first.
        """
        if location is None:
            self.add(path, message, hint)
            return
        reference = self.located.locate(path)
        origin: tuple[str, ...] = ()
        if reference is not None:
            between = stack[: stack.index(location.file)] if location.file in stack else stack
            origin = (reference.format(), *between, location.file)
        self.found.append(ConfigValidationIssue(format_path(path), message, hint, location, origin, path))

    def copy(self) -> Issues:
        """Return the same mistakes, to which others can be added."""
        other = Issues(self.located)
        other.found = list(self.found)
        return other

    def raise_if_any(self) -> None:
        """Raise `ConfigError` with everything found, in the order of the files."""
        if self.found:
            raise ConfigError(sorted(self.found, key=_place))


def _place(issue: ConfigValidationIssue) -> tuple[str, int, int]:
    at = issue.location
    return (at.file, at.line, at.col) if at else ("", 0, 0)


def validate_schema(issues: Issues) -> ExperimentConfig | None:
    """Check the whole configuration against the schema; None when something was found."""
    config, found = validated(ExperimentConfig, issues.located.data)
    for one in found:
        issues.add(one.path, one.error_message, _ELSEWHERE.get(one.error_path) or one.hint, one.of_key)
    if config is not None:
        _check_component_names(issues, config)
    return config


def idle_overrides(located: LocatedConfig, config: ExperimentConfig) -> list[str]:
    """Return a sentence per override without which the configuration would be the same.

    Args:
        located: the loaded configuration.
        config: what the schema makes of it.
    """
    plain = config.model_dump(exclude={"params"})
    return [
        f"--set {text} changes nothing: the configuration is the same without it."
        for text, raw in located.without.items()
        if raw == located.data
        or ((other := validated(ExperimentConfig, raw)[0]) and other.model_dump(exclude={"params"}) == plain)
    ]


def validate_parameters(
    issues: Issues,
    path: ConfigPath,
    params: Mapping[str, Any],
    targets: Target | Sequence[Target],
    reserved: Collection[str] = (),
) -> dict[str, Any] | None:
    """Check parameters against what will receive them; see `convert_parameters`.

    Args:
        issues: takes the mistakes.
        path: config path of `params`.
        params: what the YAML gives.
        targets: a class or function, or several that share the parameters.
        reserved: arguments that the framework passes itself.

    Returns:
        The converted parameters that were given, or None when something is wrong.
    """
    converted, found = convert_parameters(params, targets, reserved)
    for one in found:
        issues.add((*path, *one.path), one.error_message, one.hint, one.of_key)
        if one.error_message.startswith(UNKNOWN_KEY):
            issues.tell_how_to_take_back()
    return converted


def _check_component_names(issues: Issues, config: ExperimentConfig) -> None:
    """Names under `component_build_args` and `component_optims` are names of components."""
    names = list(config.model.component_config_paths)
    for section in ("component_build_args", "component_optims"):
        for name in getattr(config.model, section):
            if name not in names:
                hint = did_you_mean(name, names, "components are")
                issues.add(("model", section, name), "there is no component of this name", hint, of_key=True)
    frozen = [n for n, a in config.model.component_build_args.items() if a.freeze]
    for name in frozen:
        if name in config.model.component_optims:
            issues.add(
                ("model", "component_optims", name),
                "this component is frozen, so its optimizer would have no effect",
                "remove one of the two",
            )
