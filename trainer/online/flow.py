"""How far learning and collecting may be apart, and how many labels an expert may still give."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from trainer.utils.files import write_json


def why_not_update(
    updates: int, steps: int, windows: int, *, start_windows: int, ratio: float | None, slack: int
) -> str | None:
    """Return why the learner has to wait before its next update, or None.

    Args:
        updates: made so far on what was collected.
        steps: control steps that were collected.
        windows: usable ones that there are.
        start_windows: so many must be there before the first update.
        ratio: updates per collected control step that are wanted; None: any number.
        slack: updates by which either side may be ahead.
    """
    if windows < start_windows:
        return f"{windows} of the {start_windows} usable windows to start with are collected"
    if ratio is not None and updates > ratio * steps + slack:
        wanted = _number(ratio * steps)
        return (
            f"{updates} updates are made, and {steps} collected steps ask for {wanted} (update_ratio "
            f"{ratio:g}, update_slack {slack})"
        )
    return None


def why_not_collect(
    updates: int | None, steps: int, windows: int, *, start_windows: int, ratio: float | None, slack: int
) -> str | None:
    """Return why robots have to wait before they collect more, or None; see `why_not_update`.

    Before the learner has told how many updates it has made (`updates` is None), they wait for it where it
    may be behind: a learner that takes up a run says so once it is up.

    While the learner waits for its first windows, robots never wait. At any time one side at least goes on.
    """
    if windows < start_windows or ratio is None or ratio * steps <= (updates or 0) + slack:
        return None
    done = "the learner has not told yet how many it has made"
    if updates is not None:
        done = f"{updates} are made"
    return (
        f"{steps} steps are collected, which ask for {_number(ratio * steps)} updates, and {done} "
        f"(update_ratio {ratio:g}, update_slack {slack})"
    )


def _number(value: float) -> str:
    return f"{value:.0f}"


class LabelBudget:
    """The labels that an expert may give in the whole run, granted in advance.

    A source asks for as many as an episode may need before it begins. What is granted counts as used until
    the episode comes in, which counts by itself, or the source asks again: so neither a source that dies nor
    one that needs fewer costs labels for good. What a source gave in episodes that were lost when it was
    killed, nobody knows: it is not counted. Grants lie on disk, so that all of that survives this process.

    Args:
        budget: labels in the whole run; None: any number.
        path: file of the grants that are outstanding.
    """

    def __init__(self, budget: int | None, path: Path) -> None:
        self.budget = budget
        self._path = path
        self._lock = threading.Lock()
        self._granted: dict[str, int] = {}
        if budget is not None and path.is_file():
            self._granted = {k: int(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}

    def grant(self, source: str, asked: int, used: int) -> int:
        """Grant as many of the labels asked for as are left; what the source had before is given back.

        Args:
            source: who asks; those who collect at the same time have names of their own.
            asked: labels that it wants at most.
            used: labels that have come in.
        """
        if self.budget is None:
            return asked
        with self._lock:
            others = sum(count for name, count in self._granted.items() if name != source)
            granted = max(0, min(asked, self.budget - used - others))
            self._note(source, granted)
            return granted

    def give_back(self, source: str, labels: int | None = None) -> None:
        """Take back labels of a source, all that it still has if no number is given."""
        with self._lock:
            held = self._granted.get(source, 0)
            self._note(source, 0 if labels is None else max(0, held - labels))

    def _note(self, source: str, labels: int) -> None:
        if self.budget is None or self._granted.get(source, 0) == labels:
            return
        self._granted[source] = labels
        self._granted = {name: count for name, count in self._granted.items() if count}
        write_json(self._path, self._granted)
