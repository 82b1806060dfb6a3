"""What the samples of an experiment are made of, as its dataset says: columns, windows and rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.data.columns import Column, from_facts, to_facts
from trainer.data.windows import Window
from trainer.utils.errors import UsageError


@dataclass(frozen=True)
class Description:
    """What a sample holds.

    Attributes:
        columns: what is in a sample, by name.
        windows: which frames of which column, in the order of the dataset.
        fps: control steps per second.
        names: column → the names of its dimensions, where they have some.
        tasks: the texts of the tasks, each at its `task_index`.
    """

    columns: Mapping[str, Column]
    windows: tuple[Window, ...]
    fps: float
    names: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Description:
        """Take the description from the `facts()` of a dataset; of a mixture those of its robot.

        Raises:
            UsageError: they do not tell which columns a sample has, which frames of them, or the rate.
        """
        columns, windows, fps = from_facts(facts), facts.get("windows"), facts.get("fps")
        lacking = "columns" if columns is None else "windows" if not windows else "fps" if not fps else None
        if lacking is not None:
            raise UsageError(
                f"the facts() of the dataset do not tell its {lacking}, so nothing can be collected for it; "
                "a LeRobot dataset tells them"
            )
        assert columns is not None
        assert windows is not None
        unknown = [name for name in windows if name not in columns]
        if unknown:
            raise UsageError(
                f"the facts() of the dataset have a window of '{unknown[0]}', but no such column"
            )
        unseen = [c.name for c in columns.values() if c.is_picture and c.name not in windows]
        if unseen:
            raise UsageError(f"the facts() of the dataset have no window of the camera '{unseen[0]}'")
        features = facts.get("features") or {}
        return cls(
            columns=columns,
            windows=tuple(Window(name, tuple(map(int, offsets))) for name, offsets in windows.items()),
            fps=float(fps or 0),
            names={name: features[name].get("names") for name in columns if name in features},
            tasks=tuple(facts.get("tasks") or ()),
        )

    @property
    def stored(self) -> list[Column]:
        """The columns that an episode has to have: numbers, flags and pictures."""
        return [c for c in self.columns.values() if c.kind in ("number", "flag") or c.is_picture]

    @property
    def cameras(self) -> list[Column]:
        """Those of them that are pictures."""
        return [column for column in self.columns.values() if column.is_picture]

    @property
    def beside(self) -> list[Column]:
        """The columns of numbers that a sample has at its own frame, without a window."""
        windowed = {window.name for window in self.windows}
        return [c for c in self.stored if not c.is_picture and c.name not in windowed]

    @property
    def longest(self) -> int:
        """Number of steps of the longest window."""
        return max(window.span for window in self.windows)

    @property
    def longest_window(self) -> str:
        """Whose window that is."""
        return max(self.windows, key=lambda window: window.span).name

    def difference(self, other: Description) -> str | None:
        """Say in what samples of another description differ from these; None if they do not."""
        plain, others = to_facts(self.columns), to_facts(other.columns)
        for name in [*plain, *others]:
            if plain.get(name) != others.get(name):
                here, there = self.columns.get(name), other.columns.get(name)
                return f"'{name}' is {_said(here)} and {_said(there)}"
        windows = {window.name: window.offsets for window in self.windows}
        for window in other.windows:
            if windows.get(window.name) != window.offsets:
                return f"the window of '{window.name}' is {windows.get(window.name)} and {window.offsets}"
        if len(self.windows) != len(other.windows):
            return f"there are {len(self.windows)} windows and {len(other.windows)}"
        return None if self.fps == other.fps else f"the rate is {self.fps:g} and {other.fps:g} steps/s"


def _said(column: Column | None) -> str:
    if column is None:
        return "missing"
    return f"{column.kind} {column.dtype} {list(column.shape)}"
