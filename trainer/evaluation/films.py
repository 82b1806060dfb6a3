"""Films of episodes while they are played."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.evaluation.video import write_video
from trainer.templates import Simulator

FILM_FPS = 20
"""Films show about so many of a second's states, as drawing costs far more than simulating."""


def film_name(episode: int) -> str:
    """Return what the film of an episode is called."""
    return f"episode_{episode:03d}.mp4"


class FilmCrew:
    """Films the first episodes, and gives up with a note where nothing can be drawn.

    Args:
        numbers: of the episodes that this rank plays, among those of all ranks.
        videos: so many episodes of all ranks are filmed.
    """

    def __init__(self, numbers: Sequence[int], videos: int) -> None:
        self.films: dict[int, bytes] = {}
        self.notes: list[str] = []
        self._numbers = numbers
        self._videos = videos
        self._reels: dict[int, list[np.ndarray]] = {}

    def watch(self, row: int, step: int, simulator: Simulator) -> None:
        """Take a picture of every few states of an episode that is filmed."""
        if self._numbers[row] < self._videos and step % _every(simulator) == 0:
            self._take(self._numbers[row], simulator)

    def ended(self, row: int, simulator: Simulator) -> None:
        """Make the film of an episode; its last state is held for a second, so that one sees it."""
        episode = self._numbers[row]
        if episode >= self._videos:
            return
        self._take(episode, simulator)
        frames = self._reels.pop(episode, [])
        if not frames:
            return
        fps = simulator.fps / _every(simulator)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / film_name(episode)
            try:
                write_video(path, frames + [frames[-1]] * round(fps), fps)
            except RuntimeError as error:
                self._give_up(error)
            else:
                self.films[episode] = path.read_bytes()

    def _take(self, episode: int, simulator: Simulator) -> None:
        try:
            self._reels.setdefault(episode, []).append(simulator.render())
        except RuntimeError as error:
            self._give_up(error)

    def _give_up(self, error: RuntimeError) -> None:
        self._videos = 0
        self._reels.clear()
        self.notes.append(f"no videos were made: {error}")


def _every(simulator: Simulator) -> int:
    """Return at which multiple of control steps a picture is taken."""
    return max(1, round(simulator.fps / FILM_FPS))
