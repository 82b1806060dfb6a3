"""Keeping the numbers of a run: metrics.jsonl always, Weights & Biases where it can be had."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.runtime import Runtime
from trainer.utils.files import whole_file

METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"


class Tracker:
    """Records the metrics of every step and brings them to the host once per `every` steps.

    Between two of these moments nothing waits for the device. Values are means over the ranks.

    Args:
        run: the run folder.
        runtime: rank 0 writes.
        every: steps whose metrics travel together.
        wandb_run: a Weights & Biases run that gets the same numbers, or None.
    """

    def __init__(self, run: Path, runtime: Runtime, every: int, wandb_run: Any = None) -> None:
        self.runtime = runtime
        self.every = every
        self.path = run / METRICS
        self.wandb_run = wandb_run
        self.last: dict[str, float] = {}
        self._steps: list[tuple[int, dict[str, Any], dict[str, Any]]] = []

    def record(self, step: int, metrics: dict[str, Any], facts: dict[str, Any]) -> None:
        """Keep the metrics of one step.

        Args:
            step: the iteration, from 0.
            metrics: what the step returned: tensors on the device, or numbers.
            facts: what the host knows: epoch, samples per second, share of waiting.
        """
        self._steps.append((step, metrics, facts))
        if len(self._steps) >= self.every:
            self.flush()

    def flush(self, together: bool = True) -> None:
        """Bring what was recorded to the host in one transfer and write it down.

        Args:
            together: average over the ranks, all of which must then call this.
        """
        if not self._steps:
            return
        lines = self._to_host(together)
        self._steps = []
        self.last = {k: v for k, v in lines[-1].items() if isinstance(v, (int, float))}
        if not self.runtime.is_main:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        if self.wandb_run is not None:
            for line in lines:
                self.wandb_run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])

    def _to_host(self, together: bool) -> list[dict[str, Any]]:
        """Return one plain dict per recorded step; scalars of all steps travel in one tensor."""
        tensors = [(i, k, v) for i, (_, m, _) in enumerate(self._steps) for k, v in m.items() if _scalar(v)]
        lines = [
            {"step": step, **facts, **{k: v for k, v in metrics.items() if not isinstance(v, Tensor)}}
            for step, metrics, facts in self._steps
        ]
        if tensors:
            stacked = torch.stack([v.detach().reshape(()).float() for _, _, v in tensors])
            values = (self.runtime.mean(stacked) if together else stacked).tolist()
            for (index, name, _), value in zip(tensors, values, strict=True):
                lines[index][name] = value
        return lines

    def close(self, together: bool = True) -> None:
        """Write what is left and end the Weights & Biases run; `together` as in `flush`."""
        self.flush(together)
        if self.wandb_run is not None:
            self.wandb_run.finish()


def _scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def forget_from(path: Path, step: int) -> None:
    """Drop the lines of a metrics file from `step` on, and a line cut short: the run is taken up there."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] < step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    with whole_file(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def start_wandb(project: str, name: str, config: dict[str, Any], run: Path, run_id: str | None = None) -> Any:
    """Start a Weights & Biases run: online with a key, offline without one; None where it is switched off.

    The mode is the one in WANDB_MODE when that is set.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        return None
    import wandb

    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    return wandb.init(
        project=project, name=name, config=config, dir=str(run), id=run_id, resume="allow", mode=mode,
        settings=wandb.Settings(silent=True, console="off"),
    )  # fmt: skip


def _has_key() -> bool:
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except Exception:  # a broken netrc is a missing key, and no reason to stop a run
        return False
