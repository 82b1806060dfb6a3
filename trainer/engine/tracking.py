"""Keeping the numbers of a run: metrics.jsonl always, and the loggers of `train.loggers`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.runtime import Runtime
from trainer.templates import Logger, RunIdentity
from trainer.utils.errors import TrainingFault
from trainer.utils.files import whole_file

METRICS = "metrics.jsonl"
VALIDATIONS = "validations.jsonl"
EVALUATIONS = "evaluations.jsonl"

# Numbers that stand beside the scores in these files and are none.
_FACTS = frozenset({"epoch", "episodes", "mean_length"})

Line = dict[str, Any]


class Tracker:
    """Records the metrics of every step and brings them to the host once per `every` steps.

    Between two of these moments nothing waits for the device. Values are means over the ranks.

    Args:
        run: the run folder.
        runtime: rank 0 writes.
        every: steps whose metrics travel together.
    """

    def __init__(self, run: Path, runtime: Runtime, every: int) -> None:
        self.run = run
        self.runtime = runtime
        self.every = every
        self.last: Line = {}
        self._steps: list[tuple[int, Mapping[str, Any], Mapping[str, Any]]] = []
        self._loggers: list[tuple[Logger, int]] = []

    def start(self, loggers: Sequence[Logger], identity: RunIdentity) -> None:
        """Begin with loggers, or go on with them: each gets what it lacks of the steps so far."""
        for logger in loggers:
            known = logger.start(identity)
            self._loggers.append((logger, known))
            rows = self._rows_after(known) if known < identity.first_step - 1 else []
            if rows:
                logger.log(rows)

    def _rows_after(self, known: int) -> list[tuple[int, dict[str, float]]]:
        """Return what the files of the run hold of the steps after `known`, as `flush` and `note` gave it."""
        rows = dict(_row(line) for line in _lines(self.run / METRICS) if line["step"] > known)
        for file in (VALIDATIONS, EVALUATIONS):
            for line in _lines(self.run / file):
                step, scores = _row(line)
                if step - 1 in rows:
                    rows[step - 1].update({k: v for k, v in scores.items() if k not in _FACTS})
        return list(rows.items())

    def record(self, step: int, metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Line]:
        """Keep the metrics of one step.

        Args:
            step: the iteration, from 0.
            metrics: what the step returned: tensors on the device, or numbers.
            facts: what the host knows: epoch, samples per second, share of waiting.

        Returns:
            The lines that came to the host with this step, if this was the time.
        """
        self._steps.append((step, metrics, facts))
        return self.flush() if len(self._steps) >= self.every else []

    def flush(self, together: bool = True) -> list[Line]:
        """Bring what was recorded to the host in one transfer, write it down and return it.

        Args:
            together: average over the ranks, all of which must then call this.
        """
        if not self._steps:
            return []
        lines = self._to_host(together)
        self._steps = []
        self.last = {k: v for k, v in lines[-1].items() if isinstance(v, (int, float))}
        if self.runtime.is_main:
            self._append(METRICS, lines)
            self._log([_row(line) for line in lines])
        return lines

    def note(self, file: str, facts: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Write down what was measured beside training, after `facts["step"]` updates.

        Loggers get the scores with the last of these updates, whose metrics have been flushed.
        """
        if self.runtime.is_main:
            self._append(file, [{**facts, **scores}])
            self._log([(facts["step"] - 1, scores)])

    def _append(self, file: str, lines: Iterable[Mapping[str, Any]]) -> None:
        try:
            with (self.run / file).open("a", encoding="utf-8") as opened:
                opened.write("".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise TrainingFault(f"{self.run / file} cannot be written: {error.strerror}") from error

    def _log(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for logger, known in self._loggers:
            new = [row for row in rows if row[0] > known]
            if new:
                logger.log(new)

    def _to_host(self, together: bool) -> list[Line]:
        """Return one plain dict per recorded step; scalars of all steps travel in one tensor."""
        tensors = [(i, k, v) for i, (_, m, _) in enumerate(self._steps) for k, v in m.items() if _scalar(v)]
        lines = [
            {"step": step, **facts, **{k: v for k, v in metrics.items() if not isinstance(v, Tensor)}}
            for step, metrics, facts in self._steps
        ]
        if together and self.runtime.distributed:
            self._agree_on_names([f"{self._steps[i][0]} {name}" for i, name, _ in tensors])
        if tensors:
            stacked = torch.stack([v.detach().reshape(()).float() for _, _, v in tensors])
            values = (self.runtime.mean(stacked) if together else stacked).tolist()
            for (index, name, _), value in zip(tensors, values, strict=True):
                lines[index][name] = value
        return lines

    def _agree_on_names(self, names: Sequence[str]) -> None:
        """Make sure that all ranks average the same metrics of the same steps.

        Raises:
            TrainingFault: they do not, on every rank.
        """
        digest = zlib.crc32("\n".join(names).encode())
        if self.runtime.largest(digest) == -self.runtime.largest(-digest):
            return
        of_ranks = self.runtime.from_main(self.runtime.gather(list(names)))
        common = set(of_ranks[0]).intersection(*of_ranks)
        for rank, own in enumerate(of_ranks):
            odd = next((name for name in own if name not in common), None)
            if odd is not None:
                step, _, metric = odd.partition(" ")
                raise TrainingFault(
                    f"metric '{metric}' of step {step} came from rank {rank} and not from all ranks; "
                    "return the same names on every rank, with NaN where there is nothing to tell"
                )
        raise TrainingFault("the ranks return their metrics in different orders; return them in the same one")

    def close(self, together: bool = True) -> None:
        """Write what is left and end the loggers; `together` as in `flush`."""
        try:
            self.flush(together)
        finally:
            for logger, _ in self._loggers:
                logger.finish()


def _scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _row(line: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    """Return step and numbers of a line."""
    numbers = {k: v for k, v in line.items() if k != "step" and isinstance(v, (int, float))}
    return line["step"], numbers


def _lines(path: Path) -> list[Line]:
    """Return the lines of a metrics file; one that was cut short is left out."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            found.append(line)
    return found


def forget_from(path: Path, step: int) -> None:
    """Drop the lines of a metrics file from `step` on, and a line cut short: the run is taken up there."""
    if not path.exists():
        return
    kept = [line for line in _lines(path) if line["step"] < step]
    with whole_file(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
