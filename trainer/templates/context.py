"""What a policy may know beside its batch."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.utils.random import Random


@dataclass(frozen=True)
class Context:
    """When and for what a policy is asked.

    Attributes:
        random: the numbers to draw; they belong to samples, so ranks, restarts and neighbours change none.
        training: whether the loss is trained on; false in validation and on a robot.
        step: updates made before this one; 0 on a robot.
        total_steps: updates of the whole run, or None where nobody knows.
        epoch: completed passes over the data.
        micro_batch: which of the batches that make this update together.
        micro_batches: their number.
    """

    random: Random
    training: bool = False
    step: int = 0
    total_steps: int | None = None
    epoch: int = 0
    micro_batch: int = 0
    micro_batches: int = 1

    @property
    def last(self) -> bool:
        """Whether the update is made after this micro-batch."""
        return self.micro_batch == self.micro_batches - 1
