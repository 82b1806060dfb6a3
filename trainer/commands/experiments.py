"""What commands take from an experiment YAML without training it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.errors import UserError
from trainer.config.loader import load_located
from trainer.config.paths import config_file, expanded, output_path, project_folder

if TYPE_CHECKING:
    from trainer.config.schemas import ExperimentConfig, RecordingConfig


def read_experiment(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Load an experiment YAML with its overrides and check it against the schema.

    Raises:
        ConfigLoadError, ConfigError: what is wrong, and where.
    """
    from trainer.config.validation import Issues, validate_schema

    issues = Issues(load_located(path, overrides))
    config = validate_schema(issues)
    issues.raise_if_any()
    assert config is not None
    return config


def recording_of(path: str | Path, overrides: Sequence[str] = ()) -> tuple[RecordingConfig, Path]:
    """Return `data.recording` of an experiment and where the recording goes, the dataset's `root`."""
    config = read_experiment(path, overrides)
    asked, root = config.data.recording, config.data.datamodule.params.get("root")
    if asked is None:
        raise UserError(f"{path} has no section data.recording, so there is nothing to record")
    if not isinstance(root, str):
        raise UserError(f"{path}: data.datamodule.params.root is needed: it is where the recording goes")
    return asked, output_path(root, config_file(path))


def import_plugins(path: Path, trust: Sequence[str] = (), overrides: Sequence[str] = ()) -> None:
    """Import the plugins of an experiment YAML, which is the user's own; of anything else, none.

    Args:
        path: what a command was given.
        overrides: texts of `--set`.
        trust: packages of the user's own, which are found in the project around the current folder.

    Raises:
        ConfigLoadError, ConfigError, PluginError: what is wrong, and where.
    """
    # Help need not wait for torch.
    from trainer.registry import load_plugins

    if is_experiment(path):
        load_plugins(read_experiment(path, overrides).plugins, project_folder(config_file(path)))
    elif trust:
        load_plugins([], project_folder(Path.cwd() / "experiment.yaml"))


def plugins_of(path: Path | None) -> tuple[list[str], Path | None]:
    """Return the plugins that an experiment YAML names, and the folder of its project; none without one.

    Only what concerns plugins is checked, so that what else is wrong with the file is no hindrance.

    Raises:
        ConfigLoadError: the file cannot be read.
    """
    if path is None:
        return [], None
    named = load_located(path).data.get("plugins")
    plugins = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return plugins, project_folder(config_file(path))


def is_experiment(path: Path) -> bool:
    """Say whether a path is an experiment YAML."""
    return path.suffix in (".yaml", ".yml") and config_file(path).is_file()


def run_folder(path: Path, overrides: Sequence[str] = ()) -> Path:
    """Return the run folder that a path means: itself, or the `save_dir` of an experiment YAML.

    Args:
        path: what a command was given.
        overrides: texts of `--set`, for an experiment YAML.
    """
    if not is_experiment(path):
        if overrides:
            raise UserError(f"--set has no effect with {path}, which is no experiment YAML")
        return expanded(path)
    folder = output_path(read_experiment(path, overrides).train.save_dir, config_file(path))
    if not folder.is_dir():
        raise UserError(
            f"{path} trains into {folder}, and there is no such folder; a run that was trained with "
            "--set train.save_dir=… is found by the same --set, or by its folder in place of the YAML"
        )
    return folder
