"""TensorBoard: event files in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.registry import LOGGER_REGISTRY
from trainer.templates import RunIdentity


@LOGGER_REGISTRY.register("tensorboard")
class TensorBoardLogger:
    """Writes scalars to `<run>/<folder>`, where `tensorboard --logdir` finds them.

    Args:
        folder: name of the folder below the run folder.

    Raises:
        ValueError: tensorboard is not installed.
    """

    def __init__(self, folder: str = "tensorboard") -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "tensorboard is not installed; pip install 'trainer[tensorboard]', or take it out of "
                "train.loggers"
            ) from None
        self._writer_class: Any = SummaryWriter
        self._writer: Any = None
        self.folder = folder

    def start(self, run: RunIdentity) -> int:
        """Open a new event file; TensorBoard forgets what an earlier one has from `first_step` on."""
        # Also from 0 on: a run that was killed before its first checkpoint has left steps, too.
        self._writer = self._writer_class(str(run.folder / self.folder), purge_step=run.first_step)
        return run.first_step - 1

    def log(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Write numbers and have them on disk."""
        for step, values in rows:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
