"""How much disk the checkpoints of a run take, and whether it is there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.folder import checkpoint_folders
from trainer.config.schemas import ExperimentConfig
from trainer.engine.optimizers import numbers_per_parameter
from trainer.utils.text import count_short

_FLOAT = 4
_SMALL_FILES = 100_000
"""Bytes of configuration, statistics and manifest, about."""


@dataclass(frozen=True)
class CheckpointRoom:
    """The checkpoints that a run writes, and the disk for them.

    Attributes:
        folder: the run folder.
        count: checkpoints that lie there at once, at most.
        beside: of these, how many `train.checkpoint.keep` does not decide on.
        there: checkpoints that lie there already.
        size: bytes of one, about; None where it is not known.
        once: bytes of frozen components, which all checkpoints share.
        free: bytes of disk.
        keep: `train.checkpoint.keep`.
    """

    folder: Path
    count: int
    beside: int
    there: int
    size: int | None
    once: int
    free: int
    keep: int | None

    @property
    def needed(self) -> int:
        """Bytes that are still to be written."""
        if self.size is None:
            return 0
        return max(self.count - self.there, 0) * self.size + (0 if self.there else self.once)

    def sentence(self) -> str:
        """Say how many checkpoints of what size there will be, and how much disk is free."""
        number = f"{self.count:,} checkpoint" + ("" if self.count == 1 else "s")
        size = "a size that is not known" if self.size is None else f"about {count_short(self.size)}B"
        stay = f"{number} of {size}" if self.keep is None else f"at most {number} of {size} at once"
        total = ""
        if self.size and self.count > 1:
            total = f", {count_short(self.count * self.size + self.once)}B in all"
        return f"{stay}{total}; {count_short(self.free)}B are free"

    def warning(self) -> str | None:
        """Say that they will not fit, and what to set; None where they will."""
        if self.needed <= self.free:
            return None
        assert self.size is not None
        room = self.free - self.once + self.there * self.size
        fit = room // self.size - self.beside
        hint = f"set train.checkpoint.keep to {fit:,} or less, so that older ones make way"
        if fit < 1:
            hint = "not even one fits beside the next: choose a train.save_dir with more room, or make some"
        return (
            f"the checkpoints of this run will not fit on the disk of {self.folder}: "
            f"{self.sentence()}; {hint}"
        )


def checkpoint_room(
    config: ExperimentConfig,
    run: Path,
    steps_per_epoch: int | None,
    sizes: Mapping[str, tuple[int | None, int]],
) -> CheckpointRoom:
    """Return what the checkpoints of a run take.

    Args:
        config: the experiment.
        run: its folder, which need not be there.
        steps_per_epoch: updates of an epoch; None without epochs.
        sizes: component → its parameters and those that are trained; None where it is not known.
    """
    keep = config.train.checkpoint.keep
    written, beside = _counts(config, steps_per_epoch)
    count = written if keep is None else min(written, keep + beside)
    goes_on = config.train.checkpoint.resume_from is not None
    there = len(list(checkpoint_folders(run))) if goes_on and run.is_dir() else 0
    size: int | None = _SMALL_FILES
    once = 0
    for name, (parameters, trained) in sizes.items():
        if parameters is None or size is None:
            size = None
        elif not trained:
            once += _FLOAT * parameters
        else:
            # To deploy and to go on from: weights, what the optimizer keeps of them, and their average.
            optimizer = config.optimizers.get(name)
            kept = numbers_per_parameter(optimizer[1]) if optimizer else 0.0
            size += int(_FLOAT * (2 * parameters + kept * trained + parameters * config.train.ema.enabled))
    folder = next(path for path in (run, *run.parents) if path.exists())
    return CheckpointRoom(run, count, beside, there, size, once, shutil.disk_usage(folder).free, keep)


def _counts(config: ExperimentConfig, steps_per_epoch: int | None) -> tuple[int, int]:
    """Return how many checkpoints are written in all that may stay, and how many may lie beside `keep`."""
    train, saving = config.train, config.train.checkpoint
    total, within = config.total_steps(steps_per_epoch), saving.save_every_n_steps or 0
    epochs, rest = (0, total) if steps_per_epoch is None else divmod(total, steps_per_epoch)
    if steps_per_epoch is None:
        due = total // within if within else 0
        ends_due = within > 0 and total % within == 0
    else:
        due = epochs // train.save_every
        ends_due = not rest and epochs % train.save_every == 0
    if saving.best is not None:
        due, ends_due = max(due, epochs), ends_due or not rest  # each epoch may be the best one so far
    written = due + (saving.save_last and not ends_due)
    newest_step = bool(within) and steps_per_epoch is not None
    # The next one is whole before an older one makes way.
    return max(written, 1) + newest_step, 1 + (saving.best is not None) + newest_step
