"""A logger: every number of a run as a line of a table that spreadsheets and pandas read.

Put `examples.extensions.csv_logger` under `plugins` and this into the experiment::

    train:
      loggers:
        - { type: csv }
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.registry import LOGGER_REGISTRY
from trainer.templates import RunIdentity

HEADER = ["step", "name", "value"]


@LOGGER_REGISTRY.register("csv")
class CsvLogger:
    """Writes `<run>/<file>` with the columns step, name and value.

    Args:
        file: name of the file below the run folder.
    """

    def __init__(self, file: str = "metrics.csv") -> None:
        self.file = file
        self._path: Path | None = None

    def start(self, run: RunIdentity) -> int:
        """Keep what was logged before `first_step`; what an interrupted run did after it, it does again."""
        self._path = run.folder / self.file
        kept = []
        if self._path.exists() and run.first_step > 0:
            with self._path.open(newline="", encoding="utf-8") as file:
                kept = [line for line in list(csv.reader(file))[1:] if int(line[0]) < run.first_step]
        with self._path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *kept])
        return run.first_step - 1

    def log(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Append; the file is whole after every call."""
        assert self._path is not None, "started"
        with self._path.open("a", newline="", encoding="utf-8") as file:
            lines = ([step, name, value] for step, values in rows for name, value in values.items())
            csv.writer(file).writerows(lines)

    def finish(self) -> None:
        """Nothing is left to write."""
