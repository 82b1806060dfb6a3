"""Which episodes are meant where a configuration names some: numbers, ranges, splits of the dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model_constructor import closest

from trainer.data.errors import EpisodesError

Episodes = str | Sequence[int | str]
"""Numbers, ranges as text (`"0:50"` is 0 to 49) and names of splits, in a list; or one such text."""

_RANGE = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*")
_SHOWN = 12


def chosen_episodes(
    given: Episodes, present: Iterable[int], splits: Mapping[str, Any], who: str = "they are"
) -> list[int]:
    """Return the numbers of the episodes that are named, in the order in which they are.

    Args:
        given: what names them.
        present: the numbers that there are.
        splits: name of a split → its episodes, as a range or as a list of numbers.
        who: how a sentence begins that tells what there is.

    Raises:
        EpisodesError: an episode or a split is not there, or an episode is named twice.
    """
    there = set(present)
    chosen: dict[int, str] = {}
    for item in [given] if isinstance(given, str) else given:
        of = f" of the split '{item}'" if _is_name(item) else ""
        for number in _numbers(item, splits):
            if number not in there:
                raise EpisodesError(f"there is no episode {number}{of}", f"{who} {_listed(sorted(there))}")
            if number in chosen:
                raise EpisodesError(f"episode {number}{of or chosen[number]} is chosen more than once")
            chosen[number] = of
    if not chosen:
        raise EpisodesError("no episode is chosen")
    return list(chosen)


def _is_name(item: Any) -> bool:
    return isinstance(item, str) and _RANGE.fullmatch(item) is None


def _numbers(item: Any, splits: Mapping[str, Any]) -> Sequence[int]:
    if isinstance(item, int) and not isinstance(item, bool):
        return [item]
    match = _RANGE.fullmatch(item) if isinstance(item, str) else None
    if match is not None:
        numbers = range(int(match[1]), int(match[2]))
        if not numbers:
            raise EpisodesError(f"the range {item!r} is empty")
        return numbers
    if not isinstance(item, str):
        raise EpisodesError(f"{item!r} is no episode number", 'a range is written as text, "0:50"')
    if item not in splits:
        raise EpisodesError(f"{item!r} is no episode number and no split of the dataset", _hint(item, splits))
    return _of_split(item, splits[item])


def _hint(name: str, splits: Mapping[str, Any]) -> str:
    if not splits:
        return 'it has no splits; a range is written as text, "0:50"'
    near = closest(name, splits)
    meant = f"did you mean '{near[0]}'? " if near else ""
    return f"{meant}its splits are {', '.join(splits)}"


def _of_split(name: str, told: Any) -> Sequence[int]:
    """Return the episodes of a split as the dataset tells them."""
    match = _RANGE.fullmatch(told) if isinstance(told, str) else None
    numbers = range(int(match[1]), int(match[2])) if match else told
    if not isinstance(numbers, range | list | tuple) or any(type(number) is not int for number in numbers):
        raise EpisodesError(f"the split '{name}' of the dataset is {told!r}, no range and no list of numbers")
    if not numbers:
        raise EpisodesError(f"the split '{name}' of the dataset is empty")
    return numbers


def _listed(numbers: Sequence[int]) -> str:
    """Write the numbers that there are, ascending."""
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    more = ", …" if len(numbers) > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + more
