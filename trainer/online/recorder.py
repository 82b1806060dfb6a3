"""Notes what one robot measures and does, step by step, until it is an episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.data.columns import ACTION, Column, from_facts
from trainer.data.measured import measured
from trainer.online.episode import Episode
from trainer.utils.errors import UsageError


def recorded_columns(facts: Mapping[str, Any]) -> dict[str, Column]:
    """Return what an episode must hold, the action included: numbers, flags and pictures of a dataset.

    Raises:
        UsageError: the dataset does not tell.
    """
    columns = from_facts(facts)
    if columns is None or ACTION not in columns:
        raise UsageError(
            "the dataset does not tell its columns, so nothing can be collected for it; a LeRobot dataset "
            "does, and one of your own by the attribute `columns`"
        )
    return {name: one for name, one in columns.items() if one.kind in ("number", "flag", "picture")}


class Recorder:
    """Takes the steps of one episode.

    Args:
        columns: what is recorded.
        source: name of the worker or robot.
        start_seed: where the episode starts, if a simulator was told.
    """

    def __init__(self, columns: Mapping[str, Column], source: str, start_seed: int | None = None) -> None:
        self._columns = columns
        self._source, self.start_seed = source, start_seed
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in columns}
        self._modes: list[int] = []
        self._labelled: list[bool] = []
        self._versions: list[int] = []

    def __len__(self) -> int:
        """Return the number of steps so far."""
        return len(self._modes)

    def add(
        self,
        observation: Mapping[str, np.ndarray],
        action: np.ndarray,
        mode: int,
        labelled: bool,
        version: int,
    ) -> None:
        """Take a step.

        Args:
            observation: raw, feature → value; more than is recorded may be there.
            action: what is to be learnt, `(A,)`.
            mode: who moved the robot.
            labelled: the action was given by an expert or a person.
            version: of the weights that were asked.

        Raises:
            UsageError: something is missing, or is not what the dataset can hold.
        """
        for name, column in self._columns.items():
            if name != ACTION and name not in observation:
                raise UsageError(f"the robot does not measure '{name}', which the demonstrations have")
            value = action if name == ACTION else observation[name]
            self._rows[name].append(measured(column, value, None)[0])
        self._modes.append(mode)
        self._labelled.append(labelled)
        self._versions.append(version)

    def episode(self, task: str, success: bool) -> Episode:
        """Return the steps as an episode."""
        return Episode(
            columns={name: np.stack(rows) for name, rows in self._rows.items()},
            control_mode=np.array(self._modes, np.int8),
            labelled=np.array(self._labelled, bool),
            policy_version=np.array(self._versions, np.int64),
            task=task,
            success=success,
            source=self._source,
            start_seed=self.start_seed,
        )
