"""Reading JSON files that somebody else wrote: what fits is taken, the rest counts as not known."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.utils.text import Interval


def read_text(path: Path, problems: list[str]) -> str | None:
    """Return the text of a file, `None` where there is none; what is wrong becomes a problem."""
    if not path.exists():
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}.")
        return None


def read_json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """Return the JSON object of a file, `None` where there is none; what is wrong becomes a problem."""
    text = read_text(path, problems)
    if text is None:
        return None
    name = path.name if path.name != "results.json" else f"evaluations/{path.parent.name}/{path.name}"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.append(f"{name} is not valid JSON ({error}) and is left out.")
        return None
    if not isinstance(value, dict):
        problems.append(f"{name} holds no JSON object and is left out.")
        return None
    return value


def read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Return the JSON objects of a file with one a line; incomplete lines become a problem."""
    text = read_text(path, problems) or ""
    lines, unreadable = [], 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            lines.append(value)
        else:
            unreadable += 1
    if unreadable:
        problems.append(f"{path.name}: {unreadable} incomplete line(s) left out.")
    return lines


def as_number(value: Any) -> float | None:
    """Return an int or float as float, anything else as `None`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_integer(value: Any) -> int | None:
    """Return a number as int, anything else as `None`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return int(value) if abs(value) < 1e18 else None


def as_text(value: Any) -> str | None:
    """Return a single value as text, a container as `None`."""
    if value is None or isinstance(value, (dict, list)):
        return None
    return str(value)


def as_time(value: Any) -> datetime | None:
    """Return an ISO time, anything else as `None`."""
    try:
        # Python 3.10 does not know the suffix Z.
        return datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        return None


def as_interval(value: Any) -> Interval | None:
    """Return a list of two numbers, anything else as `None`."""
    bounds = [as_number(bound) for bound in as_sequence(value)]
    if len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
        return None
    return bounds[0], bounds[1]


def as_mapping(value: Any) -> dict[str, Any]:
    """Return an object, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def as_sequence(value: Any) -> Sequence[Any]:
    """Return a list, anything else as an empty one."""
    return value if isinstance(value, list) else ()


def as_texts(value: Any) -> tuple[str, ...]:
    """Return the single values of a list as texts."""
    return tuple(text for text in map(as_text, as_sequence(value)) if text is not None)


def as_text_mapping(value: Any) -> dict[str, str]:
    """Return the single values of an object as texts."""
    texts = {str(key): as_text(entry) for key, entry in as_mapping(value).items()}
    return {key: text for key, text in texts.items() if text is not None}


def moment_of(path: str) -> tuple[str, float] | None:
    """Return kind and N of the last `epoch_<N>` or `step_<N>` in a path."""
    found = re.findall(r"(epoch|step)_(\d{1,9})\b", path)
    return (found[-1][0], float(found[-1][1])) if found else None
