"""Keeping the numbers of a run: metrics.jsonl always, and the loggers of `train.loggers`."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.runtime import Runtime
from trainer.templates import Logger, RunIdentity
from trainer.templates.reduced import Reduced, Reduction, plain, reduction
from trainer.utils.errors import TrainingFault
from trainer.utils.files import whole_file
from trainer.utils.text import what_it_is

METRICS = "metrics.jsonl"
VALIDATIONS = "validations.jsonl"
EVALUATIONS = "evaluations.jsonl"
ONLINE = "online.jsonl"
BESIDE = (VALIDATIONS, EVALUATIONS, ONLINE)
"""What is measured beside training, each line after so many updates."""

# Numbers that stand beside the scores in these files and are none.
_FACTS = frozenset({"epoch", "episodes", "mean_length", "seconds"})

Line = dict[str, Any]


class Tracker:
    """Records the metrics of every step and brings them to the host once per `every` steps.

    Between two of these moments nothing waits for the device. Values are means over the ranks, unless they
    are `Reduced` in another way. A logger that fails gets nothing any more, and `check` raises its error:
    what it was to be told is in the files, so the run can be saved first.

    Args:
        run: the run folder.
        runtime: rank 0 writes.
        every: steps whose metrics travel together.
        watch: looks at all that has come to the host, and may end the run.
    """

    def __init__(
        self,
        run: Path,
        runtime: Runtime,
        every: int,
        watch: Callable[[Sequence[Line]], None] = lambda lines: None,
    ) -> None:
        self.run = run
        self.runtime = runtime
        self.every = every
        self.last: Line = {}
        self._watch = watch
        self._steps: list[tuple[int, dict[str, Any], Mapping[str, Any]]] = []
        self._loggers: list[tuple[Logger, float]] = []
        self._failure: Exception | None = None
        self._waiting: dict[int, dict[str, float]] = {}

    def start(self, loggers: Sequence[Logger], identity: RunIdentity) -> None:
        """Begin with loggers, or go on with them: each gets what it lacks of the steps so far."""
        for logger in loggers:
            known = logger.start(identity)
            if type(known) is not int:
                raise TrainingFault(
                    f"the start of logger {type(logger).__name__} returned {what_it_is(known)}; it must "
                    "return the last step that it has already, -1 for none"
                )
            self._loggers.append((logger, known))
            rows = self._rows_after(known) if known < identity.first_step else []
            if rows:
                step, values = rows.pop()
                self._waiting[step] = values
            if rows:
                logger.log(rows)

    def _rows_after(self, known: int) -> list[tuple[int, dict[str, float]]]:
        """Return what the files of the run hold of the steps after `known`, as `flush` and `note` gave it."""
        rows = dict(_row(line) for line in _lines(self.run / METRICS) if line["step"] > known)
        for file in BESIDE:
            for line in _lines(self.run / file):
                step, scores = _row(line)
                if step - 1 in rows:
                    rows[step - 1].update({k: v for k, v in scores.items() if k not in _FACTS})
        return list(rows.items())

    def record(self, step: int, metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Line]:
        """Keep the metrics of one step.

        Args:
            step: the iteration, from 0.
            metrics: what the step returned: numbers, tensors of one element on the device, or `Reduced`.
            facts: what the host knows: epoch, samples per second, share of waiting.

        Returns:
            The lines that came to the host with this step, if this was the time.

        Raises:
            TrainingFault: a metric is something else.
        """
        self._steps.append((step, {name: _checked(name, m, step) for name, m in metrics.items()}, facts))
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
        self._watch(lines)
        return lines

    def note(self, file: str, facts: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Write down what was measured beside training, after `facts["step"]` updates.

        Loggers get the scores together with the last of these updates, whose metrics have been flushed.
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
        """Hand numbers to the loggers; the newest step waits for what may still be measured after it."""
        for step, values in rows:
            self._waiting.setdefault(step, {}).update(values)
        newest = max(self._waiting)
        self._hand_over(before=newest)

    def _hand_over(self, before: float = math.inf) -> None:
        ready = [row for row in self._waiting.items() if row[0] < before]
        self._waiting = {step: values for step, values in self._waiting.items() if step >= before}
        for number, (logger, known) in enumerate(self._loggers):
            new = [row for row in ready if row[0] > known]
            try:
                if new:
                    logger.log(new)
            except Exception as error:  # a logger of the user's own may raise anything
                self._loggers[number] = (logger, math.inf)
                self._failure = self._failure or error

    @property
    def has_failed(self) -> bool:
        """Whether `check` would raise."""
        return self._failure is not None

    def check(self) -> None:
        """Return at once.

        Raises:
            Exception: the error of a logger that has failed, once.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _to_host(self, together: bool) -> list[Line]:
        """Return one plain dict per recorded step; scalars of all steps travel in one tensor."""
        lines: list[Line] = [{"step": step, **facts} for step, _, facts in self._steps]
        places = [(i, name) for i, (_, metrics, _) in enumerate(self._steps) for name in metrics]
        metrics = [metric for _, of_step, _ in self._steps for metric in of_step.values()]
        values, hows = [plain(metric) for metric in metrics], [reduction(metric) for metric in metrics]
        tensors = [isinstance(value, Tensor) for value in values]
        reduced = together and self.runtime.distributed
        if reduced:
            kinds = [f"{'tensor' if t else 'number'} {how}" for t, how in zip(tensors, hows, strict=True)]
            self._agree_on_names(
                [f"{self._steps[i][0]} {kind} {name}" for (i, name), kind in zip(places, kinds, strict=True)]
            )
        for on_device in (True, False):
            rows = [n for n, tensor in enumerate(tensors) if tensor == on_device]
            brought = self._brought([values[n] for n in rows], [hows[n] for n in rows], on_device, reduced)
            for n, value in zip(rows, brought, strict=True):
                values[n] = value
        for (i, name), value in zip(places, values, strict=True):
            lines[i][name] = value
        return lines

    def _brought(
        self, values: list[Any], hows: list[Reduction], on_device: bool, reduced: bool
    ) -> list[float]:
        """Return values as numbers on the host: those of this rank, or what all ranks make of them."""
        if not values or not (on_device or reduced):
            return values
        if on_device:
            with torch.no_grad():
                device = self.runtime.device
                scalars = [v.reshape(()) if v.ndim else v for v in values]
                # Asking is cheaper than converting what needs none.
                stacked = torch.stack(
                    [v if _is_ready(v, device) else v.to(device, torch.float32) for v in scalars]
                )
        else:
            stacked = torch.tensor(values, dtype=torch.float64, device=self.runtime.device)
        if reduced:
            for how in sorted(set(hows)):
                if hows.count(how) == len(hows):
                    stacked = self.runtime.reduce(stacked, how)
                else:
                    rows = torch.tensor([n for n, h in enumerate(hows) if h == how], device=stacked.device)
                    stacked[rows] = self.runtime.reduce(stacked[rows], how)
        brought: list[float] = stacked.tolist()
        return brought

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
                step, _, _, metric = odd.split(" ", 3)
                raise TrainingFault(
                    f"metric '{metric}' of step {step} came from rank {rank} and not from all ranks; "
                    "return the same names on every rank, as numbers or as tensors alike, with NaN where "
                    "there is nothing to tell"
                )
        raise TrainingFault("the ranks return their metrics in different orders; return them in the same one")

    def close(self, together: bool = True) -> None:
        """Write what is left and end the loggers; `together` as in `flush`."""
        try:
            try:
                self.flush(together)
            finally:
                self._hand_over()
                self.check()
        finally:
            for logger, _ in self._loggers:
                logger.finish()


def combine(parts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the metrics of an update, of which each of its micro-batches has given some.

    Numbers and tensors are averaged over the micro-batches that have them, or reduced as they say.
    """
    if len(parts) == 1:
        return parts[0]
    values: dict[str, list[Any]] = {}
    for metrics in parts:
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
    return {name: same[0] if len(same) == 1 else _combined(same) for name, same in values.items()}


def _combined(metrics: Sequence[Any]) -> Any:
    how = reduction(metrics[-1])
    values = [plain(metric) for metric in metrics]
    try:
        numbers = [single_number(value) for value in values]
    except ValueError:
        return values[-1]  # whoever keeps it says what is wrong with it
    if how == "last":
        return Reduced(numbers[-1], how)
    if any(isinstance(number, Tensor) for number in numbers):
        device = next(number.device for number in numbers if isinstance(number, Tensor))
        stacked = torch.stack([torch.as_tensor(number, device=device).reshape(()) for number in numbers])
        stacked = stacked if stacked.is_floating_point() else stacked.float()
        found: Any = stacked.mean(0) if how == "mean" else stacked.sum(0) if how == "sum" else stacked.amax(0)
    else:
        found = {"mean": sum(numbers) / len(numbers), "sum": sum(numbers), "max": max(numbers)}[how]
    return found if how == "mean" else Reduced(found, how)


def _is_ready(value: Tensor, device: torch.device) -> bool:
    return value.dtype == torch.float32 and value.device == device


def _checked(name: str, metric: Any, step: int) -> Any:
    """Return a metric as it is kept: a float, a tensor of one element, or one of these as `Reduced`.

    Raises:
        TrainingFault: it is no single number.
    """
    try:
        value = single_number(plain(metric))
    except ValueError as error:
        raise TrainingFault(
            f"metric '{name}' of step {step} is {error}; return numbers, or tensors of one element"
        ) from None
    return Reduced(value, metric.how) if isinstance(metric, Reduced) else value


def single_number(value: Any) -> Any:
    """Return a tensor of one element as it is, and a number of Python or numpy as a float.

    Raises:
        ValueError: it is neither, and what it is.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not (value.is_complex() or value.is_sparse):
        return value
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            raise ValueError("an integer that no float can hold") from None
    if isinstance(value, (np.generic, np.ndarray)) and value.size == 1 and value.dtype.kind in "biuf":
        return float(value.item())
    raise ValueError(what_it_is(value))


def _row(line: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    """Return step and numbers of a line."""
    numbers = {k: v for k, v in line.items() if k != "step" and isinstance(v, (int, float))}
    return line["step"], numbers


def _lines(path: Path) -> list[Line]:
    """Return the lines of a metrics file; one that was cut short or is damaged is left out.

    Raises:
        TrainingFault: the file cannot be read.
    """
    found = []
    try:
        content = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise TrainingFault(f"{path} cannot be read: {error.strerror}") from error
    for text in content.splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and type(line.get("step")) is int:
            found.append(line)
    return found


def forget_from(path: Path, step: int) -> None:
    """Drop the lines of a metrics file from `step` on, and a line cut short: the run is taken up there."""
    if not path.exists():
        return
    kept = [line for line in _lines(path) if line["step"] < step]
    with whole_file(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
