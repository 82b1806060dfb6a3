"""The `defaults` of a file: the files that lie beneath it."""

from __future__ import annotations

import os
from pathlib import Path

from model_constructor.config.nodes import UNKNOWN, Node
from model_constructor.util.problems import Problems

FORM = "a list of paths, `- base.yaml` or `- label: base.yaml`"

_further_folders: list[str] = []


def look_for_defaults_in(folder: str | Path) -> None:
    """Let `defaults` also name files below this folder, where none is beside the file that names them."""
    if str(folder) not in _further_folders:
        _further_folders.append(str(folder))


def file_of_entry(value: str, folder: str) -> str:
    """The file that an entry of `defaults` means: below `folder`, else below one that was added."""
    own, *others = (
        os.path.normpath(os.path.join(one, os.path.expanduser(value))) for one in (folder, *_further_folders)
    )
    return own if os.path.exists(own) else next(filter(os.path.isfile, others), own)


def defaults_entries(root: Node, problems: Problems) -> list[Node]:
    """The paths under `defaults`, in their order; a label is for the reader and means nothing.

    Args:
        root: a file's mapping.
        problems: takes what is no path.
    """
    node = root.value.get("defaults")
    if node is None or node.value is None or node.value is UNKNOWN:
        return []
    if not isinstance(node.value, list):
        problems.add(f"'defaults' must be {FORM}", ("defaults",), node.loc)
        return []
    entries = []
    for index, entry in enumerate(node.value):
        path = ("defaults", index)
        if isinstance(entry.value, dict) and len(entry.value) == 1:
            ((_, entry),) = entry.value.items()
        if isinstance(entry.value, str) and entry.value:
            entries.append(entry)
        elif isinstance(entry.value, dict):
            message = f"an entry of 'defaults' must be one path or one `label: path`, not {len(entry.value)}"
            problems.add(message, path, entry.loc)
        elif entry.value is not UNKNOWN:
            problems.add(f"'defaults' must be {FORM}, not {entry.value!r}", path, entry.loc)
    return entries
