"""Where the relative paths of an experiment YAML lead."""

from __future__ import annotations

import os
from pathlib import Path

from model_constructor import look_for_defaults_in

PROJECT_MARKS = (".git", "pyproject.toml")
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""In bytes: what Linux file systems take."""
SHIPPED = Path(__file__).resolve().parents[2]
"""The folder with the shipped experiments: the checkout, or where the wheel was installed."""
look_for_defaults_in(SHIPPED)  # a model YAML builds on a shipped one as an experiment YAML does


def config_file(path: str | Path, folder: Path = Path()) -> Path:
    """Return the config that a path means: below `folder`, or the shipped one, `examples/configs/x.yaml`."""
    own = folder / expanded(path)
    shipped = SHIPPED / path
    return shipped if not _exists(own) and _exists(shipped) and shipped.is_file() else own


def project_folder(config_path: Path) -> Path:
    """Return the nearest folder above a config that has .git or pyproject.toml, else its own folder.

    A config that was installed with the package belongs to no project: that of the current folder takes
    what it writes.
    """
    folder = config_path.resolve().parent
    if SHIPPED in folder.parents and not any((SHIPPED / mark).exists() for mark in PROJECT_MARKS):
        folder = Path.cwd()
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).exists() for mark in PROJECT_MARKS):
            return candidate
    return folder


def search_paths(config_path: Path, declared_in: str | None = None) -> list[Path]:
    """Return the folders in which what a config names is looked up, nearest first.

    They are the folder of the file that holds the value, that of the config itself, the project folders of
    both, and the one with the shipped experiments.

    Args:
        config_path: the config that was asked for.
        declared_in: the file that holds the value, where it came in through `defaults`.
    """
    files = [config_path]
    if declared_in is not None and Path(declared_in).is_file():
        files.insert(0, Path(declared_in))
    folders = [f.resolve().parent for f in files] + [project_folder(f) for f in files] + [SHIPPED]
    return list(dict.fromkeys(folders))


def expanded(value: str | Path) -> Path:
    """Return a path with `~` as the home folder; that of a user who is not there stays as it is."""
    return Path(os.path.expanduser(value))


def path_mistake(value: str) -> str | None:
    """Say why no file or folder can have this name, or None if one can."""
    if "\0" in value:
        return "a path cannot hold a null byte"
    try:
        encoded = os.fsencode(value)
    except UnicodeError:
        return "a path cannot hold half of a surrogate pair"
    if len(encoded) > LONGEST_PATH:
        return f"a path of {len(encoded):,} bytes is too long; file systems take {LONGEST_PATH:,}"
    longest = max(map(len, encoded.split(b"/")))
    if longest > LONGEST_NAME:
        return f"a name of {longest:,} bytes in a path is too long; file systems take {LONGEST_NAME}"
    return None


def find_input(value: str, folders: list[Path]) -> Path | None:
    """Return the first existing path that `value` can mean, or None; `~` is expanded."""
    path = expanded(value)
    candidates = [path] if path.is_absolute() else [folder / path for folder in folders]
    return next((c for c in candidates if _exists(c)), None)


def _exists(path: Path) -> bool:
    """Say whether a path is there; one that no file system takes, or nobody may look at, is not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def output_path(value: str, config_path: Path) -> Path:
    """Return where something is written: `~` expanded, relative paths below the project folder."""
    path = expanded(value)
    return path if path.is_absolute() else project_folder(config_path) / path
