"""Where the relative paths of an experiment YAML lead."""

from __future__ import annotations

from pathlib import Path

PROJECT_MARKS = (".git", "pyproject.toml")


def project_folder(config_path: Path) -> Path:
    """Return the nearest folder above a config that has .git or pyproject.toml, else its own folder."""
    folder = config_path.resolve().parent
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).exists() for mark in PROJECT_MARKS):
            return candidate
    return folder


def search_paths(config_path: Path) -> list[Path]:
    """Return the folders in which what a config reads is looked up: its own first, then the project's."""
    own, project = config_path.resolve().parent, project_folder(config_path)
    return [own] if own == project else [own, project]


def find_input(value: str, folders: list[Path]) -> Path | None:
    """Return the first existing path that `value` can mean, or None; `~` is expanded."""
    path = Path(value).expanduser()
    candidates = [path] if path.is_absolute() else [folder / path for folder in folders]
    return next((c for c in candidates if c.exists()), None)


def output_path(value: str, config_path: Path) -> Path:
    """Return where something is written: `~` expanded, relative paths below the project folder."""
    path = Path(value).expanduser()
    return path if path.is_absolute() else project_folder(config_path) / path
