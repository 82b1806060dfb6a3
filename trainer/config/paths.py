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


def search_paths(config_path: Path, declared_in: str | None = None) -> list[Path]:
    """Return the folders in which what a config names is looked up, nearest first.

    They are the folder of the file that holds the value, that of the config itself, and the project folders
    of both.

    Args:
        config_path: the config that was asked for.
        declared_in: the file that holds the value, where it came in through `defaults`.
    """
    files = [config_path]
    if declared_in is not None and Path(declared_in).is_file():
        files.insert(0, Path(declared_in))
    folders = [f.resolve().parent for f in files] + [project_folder(f) for f in files]
    return list(dict.fromkeys(folders))


def find_input(value: str, folders: list[Path]) -> Path | None:
    """Return the first existing path that `value` can mean, or None; `~` is expanded."""
    path = Path(value).expanduser()
    candidates = [path] if path.is_absolute() else [folder / path for folder in folders]
    return next((c for c in candidates if c.exists()), None)


def output_path(value: str, config_path: Path) -> Path:
    """Return where something is written: `~` expanded, relative paths below the project folder."""
    path = Path(value).expanduser()
    return path if path.is_absolute() else project_folder(config_path) / path
