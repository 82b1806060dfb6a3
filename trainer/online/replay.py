"""The replay buffer: episodes come in and are kept, windows of them are drawn."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config.online import ReplayConfig
from trainer.online.compaction import Compaction, compact, compacted_episodes
from trainer.online.counts import Counts, Size
from trainer.online.description import Description
from trainer.online.episode import Episode, EpisodeError, as_episode, check_episode
from trainer.online.flow import LabelBudget, why_not_collect, why_not_update
from trainer.online.journal import Journal, JournalError
from trainer.online.memory import EpisodeMemory, Sample
from trainer.online.sampling import shares
from trainer.utils.errors import UsageError
from trainer.utils.files import write_json

JOURNAL, DATASET = "journal", "dataset"
_DESCRIPTION, _GRANTS = "description.json", "grants.json"
_KEPT_FACTS = ("columns", "windows", "fps", "features", "tasks")


class ReplayBuffer:
    """Collected episodes on disk, the newest of them in memory, and windows drawn from these.

    Of pictures only those that are drawn are in memory, as long as the system has room for them.

    An episode counts once it is in the journal; made anew with the same folder, a buffer has every episode
    that was accepted, and draws what the one before would have drawn. Several threads may use one buffer:
    drawing never waits for the disk.

    Args:
        folder: where journal and dataset lie.
        settings: fields of `online.replay`.
        seed: of draws that name none.
        expert_budget: labels that experts may give in the whole run; None: any number.
        start_windows: usable windows that must be there before the first update.
        update_ratio: updates per collected step; the side that is ahead waits. None: none waits.
        update_slack: updates by which either side may be ahead.

    Raises:
        JournalError: an episode of the journal is damaged.
    """

    def __init__(
        self,
        folder: Path | str,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
        *,
        expert_budget: int | None = None,
        start_windows: int = 0,
        update_ratio: float | None = None,
        update_slack: int = 100,
    ) -> None:
        self.folder = Path(folder)
        self.settings = ReplayConfig.model_validate(settings or {})
        self._seed = seed
        self._flow: dict[str, Any] = {
            "start_windows": start_windows,
            "ratio": update_ratio,
            "slack": update_slack,
        }
        self._journal = Journal(self.folder / JOURNAL)
        self._budget = LabelBudget(expert_budget, self.folder / _GRANTS)
        self._adding = threading.RLock()
        self._draws = itertools.count()
        self._counts = Counts()
        self._updates: int | None = None  # until the learner tells
        self._keys: dict[tuple[str, str], int] = {}
        self._next = 0
        self._running: dict[str, list[Mapping[str, Any]]] = {}
        self._memory: EpisodeMemory | None = None
        self._compaction = Compaction(self._compact, compacted_episodes(self.folder / DATASET))
        kept = self.folder / _DESCRIPTION
        if kept.is_file():
            self._begin(json.loads(kept.read_text(encoding="utf-8")))
        elif self._journal.numbers():
            raise JournalError(f"{kept} is missing, so nobody knows what the episodes beside it are")

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Say what samples are: needed once before episodes come, and allowed again.

        Args:
            facts: the `facts()` of the demonstrations; of a mixture those of its robot (`robot_facts`).

        Raises:
            UsageError: they do not tell enough, or samples were others when the episodes were collected.
        """
        described = Description.of(facts)
        with self._adding:
            if self._memory is None:
                kept = {name: facts[name] for name in _KEPT_FACTS if name in facts}
                write_json(self.folder / _DESCRIPTION, kept)
                self._begin(kept)
                return
            differs = self._memory.description.difference(described)
        if differs is not None:
            raise UsageError(
                f"the episodes in {self.folder} were collected for other samples than the dataset has now: "
                f"{differs}; choose another folder, or the dataset of then"
            )

    def add(self, episode: Episode | Mapping[str, Any], key: str | int | None = None) -> int:
        """Take in an episode; when this returns, nothing loses it.

        Args:
            episode: an `Episode`, or its columns, as `as_episode` takes them.
            key: by which the source tells this episode from all others that it ever sends, such as a random
                text: sent again with it, after an answer got lost, an episode counts once.

        Returns:
            The number of the episode.

        Raises:
            EpisodeError: it cannot be trained on; nothing is stored.
            JournalError: the disk does not take it; nothing is stored.
        """
        with self._adding:
            memory = self._described()
            whole = as_episode(episode, memory.description)
            sent = None if key is None else (str(whole.source), str(key))
            if sent is not None and sent in self._keys:
                return self._keys[sent]
            checked = check_episode(whole, memory.description)
            number = self._next
            self._journal.append(number, checked, None if sent is None else sent[1])
            self._take(number, checked, sent)
            self._budget.give_back(checked.source, checked.labels)
            done = self._compaction.done
            if self._counts.episodes - done >= max(self.settings.compact_every, done):
                self._compaction.begin()
            return number

    def add_steps(
        self,
        source: str,
        columns: Mapping[str, Any],
        *,
        first: int,
        end: bool = False,
        key: str | int | None = None,
        **about: Any,
    ) -> int | None:
        """Take in steps of an episode that is still going on; it is kept and checked when it ends.

        Args:
            source: who sends; it has one episode at a time.
            columns: feature → `(n, *shape)`, beside them perhaps `control_mode`, `labelled` and
                `policy_version`, always the same ones.
            first: steps of this episode that were sent before; 0 begins a new one.
            end: these are the last ones.
            key: as of `add`.
            **about: at the end what `add` takes besides: `task`, `success`, `start_seed`.

        Returns:
            The number of the episode at its end, else None.

        Raises:
            EpisodeError: steps before these are missing, as after this buffer was started again; or as `add`.
        """
        with self._adding:
            if key is not None and (source, str(key)) in self._keys:
                return self._keys[source, str(key)]
            parts = self._running.setdefault(source, [])
            if first == 0:
                parts.clear()
            there = sum(_length(part) for part in parts)
            if first > there:
                self._running.pop(source)
                raise EpisodeError(
                    f"of the episode of '{source}' only steps 0 to {there} of {first} are here; it was not "
                    "stored, so begin a new one"
                )
            if first == there:  # else they are sent again
                parts.append(dict(columns))
            if not end:
                return None
            self._running.pop(source)
            if any(part.keys() != parts[0].keys() for part in parts):
                raise EpisodeError(f"the episode of '{source}' has steps with different columns")
            try:
                joined = {name: np.concatenate([np.asarray(p[name]) for p in parts]) for name in parts[0]}
            except ValueError as problem:
                raise EpisodeError(
                    f"the episode of '{source}' has steps that do not go together: {problem}"
                ) from None
            return self.add({**joined, "source": source, **about}, key)

    def sample(
        self, batch_size: int, draw: Sequence[int] | None = None, first: int = 0, updates: int = 1
    ) -> Sample:
        """Draw windows, with replacement; a pure function of what is in memory and of the arguments.

        Args:
            batch_size: B.
            draw: numbers that choose the windows, such as seed and update; the next ones if not given.
            first: the place of the first of these windows among those that `draw` chooses: drawn in parts,
                windows are those that are drawn at once.
            updates: also draw for the updates after that one, the last of the numbers being that of the
                update: B windows of each, one update's after the other's.

        Returns:
            Feature → array `(updates · B, …)`, raw, as the experiment's dataset gives it; `task` is a list.

        Raises:
            UsageError: there is no window yet that may be drawn.
        """
        contents = self._described().contents
        if not len(contents.table.rows):
            raise UsageError(
                f"the replay buffer has no usable window yet, of {contents.steps} steps; wait until size() "
                "says so"
            )
        numbers = (self._seed, next(self._draws)) if draw is None else draw
        *stream, update = numbers
        chosen = [shares((*stream, update + i), first, batch_size) for i in range(updates)]
        return contents.samples(contents.draw(np.concatenate(chosen)))

    def size(self) -> Size:
        """Return how much there is to draw from."""
        if self._memory is None:
            return Size(0, 0)
        contents = self._memory.contents
        return Size(len(contents.table.rows), contents.steps)

    def counts(self) -> Counts:
        """Return what was collected so far, in numbers."""
        return replace(self._counts, updates=self._updates or 0, windows=self.size().windows)

    def grant_labels(self, asked: int, source: str = "") -> int:
        """Grant labels of the budget to a source, before its episode begins; see `LabelBudget`.

        Args:
            asked: labels that the episode needs at most.
            source: as of the episode; who plays several at once has a name for each.
        """
        with self._adding:  # an episode's labels have come in, or are granted still: never neither
            return self._budget.grant(source, asked, self._counts.labels)

    def return_labels(self, labels: int | None = None, source: str = "") -> None:
        """Take back labels that were granted to a source and not given, all of them if no number is given."""
        self._budget.give_back(source, labels)

    def note_updates(self, updates: int) -> None:
        """Note how many updates on collected data the learner has made, in all."""
        self._updates = updates

    def may_update(self, updates: int, ahead: int = 0) -> str | None:
        """Return why the learner, after so many updates, has to wait before the next one, or None.

        Args:
            updates: made on collected data, in all.
            ahead: so many updates later than the next one, it is asked.
        """
        self._updates = updates
        return why_not_update(updates + ahead, self._counts.steps, self.size().windows, **self._flow)

    def may_collect(self) -> str | None:
        """Return why robots have to wait before they collect more, or None."""
        return why_not_collect(self._updates, self._counts.steps, self.size().windows, **self._flow)

    def compact(self) -> Path:
        """Write everything collected as a LeRobot dataset now, and return its folder.

        Raises:
            DatasetError: there is nothing, or it cannot be written.
        """
        if self._compaction.done != self._counts.episodes or not self._counts.episodes:
            self._compaction.now()
        return self.folder / DATASET

    def _begin(self, facts: Mapping[str, Any]) -> None:
        """Take up what the journal has: all of it is counted, what there is room for goes to memory."""
        memory = EpisodeMemory(Description.of(facts), self.settings)
        numbers = self._journal.numbers()
        headers = [self._journal.read(number, columns=False) for number in numbers]
        kept, steps = len(numbers), 0
        while kept > 0 and (steps == 0 or steps + len(headers[kept - 1].episode) <= self.settings.capacity):
            kept -= 1
            steps += len(headers[kept].episode)
        self._memory = memory
        for place, (number, key, episode) in enumerate(headers):
            sent = None if key is None else (episode.source, key)
            if place < kept:
                memory.name_task(episode.task)
                self._count(number, episode, sent)
            else:
                self._take(number, self._journal.read(number).episode, sent)

    def _take(self, number: int, episode: Episode, sent: tuple[str, str] | None) -> None:
        memory = self._described()
        # Not those that were sent: the sender may use his arrays again, and pictures are large.
        pictures = self._journal.mapped(number, [camera.name for camera in memory.description.cameras])
        memory.append(number, self._counts.steps, episode, pictures)
        self._count(number, episode, sent)

    def _count(self, number: int, episode: Episode, sent: tuple[str, str] | None) -> None:
        self._counts = self._counts.with_episode(episode)
        self._next = number + 1
        if sent is not None:
            self._keys[sent] = number

    def _compact(self) -> int:
        return compact(self._journal, self._described().description, self.folder / DATASET)

    def _described(self) -> EpisodeMemory:
        if self._memory is None:
            raise UsageError(
                "the replay buffer does not know the samples yet; call describe(dataset.facts())"
            )
        return self._memory


def _length(columns: Mapping[str, Any]) -> int:
    return len(np.atleast_1d(next(iter(columns.values()))))
