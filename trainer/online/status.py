"""How an online run goes, in sentences: what was collected, how well, and how far behind."""

from __future__ import annotations

import itertools
import time
from collections import deque

import numpy as np

from trainer.config.online import OnlineConfig
from trainer.online.counts import Counts
from trainer.online.worker import WorkerReport

_NEWEST = 20  # episodes over which success is shown
_WINDOW_SECONDS = 60.0  # over which the rate of steps is


class Status:
    """Takes in what workers report and actors count, and says it.

    Args:
        online: the `online` section.
    """

    def __init__(self, online: OnlineConfig) -> None:
        self._online = online
        self._counts = Counts()
        self._version = 0
        self._newest: deque[bool] = deque(maxlen=_NEWEST)
        self._lags: list[int] = []
        self._delays: list[float] = []
        self._dropped = 0
        self._waiting: dict[str, str | None] = {}
        self._rates: deque[tuple[float, int]] = deque()

    def add(self, report: WorkerReport) -> None:
        """Take in what a worker did since its last report."""
        self._waiting[report.name] = report.waiting
        self._newest.extend(one.success for one in report.episodes)
        self._lags += [one.lag for one in report.episodes]
        self._delays += report.delays
        self._dropped += len(report.dropped)

    def note(self, counts: Counts, version: int) -> None:
        """Take in what the replay buffer counts, and the newest version of the weights."""
        self._counts, self._version = counts, version
        now = time.monotonic()
        self._rates.append((now, counts.steps))
        while now - self._rates[0][0] > _WINDOW_SECONDS:
            self._rates.popleft()

    def line(self) -> str:
        """Return one line on how it goes."""
        counts = self._counts
        parts = [f"version {self._version}", f"{counts.episodes:,} episodes"]
        if self._newest:
            parts.append(f"success {sum(self._newest)} of the last {len(self._newest)}")
        parts.append(f"{counts.steps:,} steps ({self._rate():.0f}/s)")
        if self._online.expert is not None:
            budget = self._online.expert_budget
            parts.append(f"{counts.labels:,} expert labels" + (f" of {budget:,}" if budget else ""))
        if self._lags:
            parts.append(f"{np.mean(self._lags[-_NEWEST:]):.1f} versions behind")
        reasons = [reason for reason in self._waiting.values() if reason is not None]
        if reasons:
            parts.append(f"robots wait: {reasons[0]}")
        elif not self._waiting and self._online.workers.count:
            parts.append("no robot has reported yet: their processes, or the learner's, are still starting")
        return "Online: " + ", ".join(parts) + "."

    def summary(self) -> str:
        """Return what is worth knowing at the end: totals, and how stale the policy was that acted."""
        counts = self._counts
        text = f"Collected {counts.episodes:,} episodes with {counts.steps:,} steps"
        if self._online.expert is not None:
            text += f" and {counts.labels:,} expert labels"
        text += f", from {self._version} versions of the weights"
        if self._dropped:
            text += f"; {self._dropped} episodes were dropped"
        return text + "." + self._staleness()

    def _staleness(self) -> str:
        text = ""
        if self._lags:
            text += f" Versions behind at the end of an episode: {_histogram(self._lags, (0, 1, 2, 4, 8))}."
        if self._delays:
            text += (
                " Seconds from publication to the first action: "
                f"{_histogram(self._delays, (0, 0.5, 1, 2, 5, 10))}."
            )
        return text

    def _rate(self) -> float:
        if len(self._rates) < 2:
            return 0.0
        (first, before), (last, after) = self._rates[0], self._rates[-1]
        return (after - before) / max(last - first, 1e-9)


def _histogram(values: list[int] | list[float], edges: tuple[float, ...]) -> str:
    """Return how many values lie from each edge up to the next: `0: 12, 1: 3, 2 and more: 1`."""
    counts, _ = np.histogram(values, [*edges, np.inf])
    names = [f"{a:g}" if a + 1 == b else f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges)]
    names.append(f"{edges[-1]:g} and more")
    return ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True) if count)
