"""What can end a run that was well configured."""

from __future__ import annotations


class TrainingFault(RuntimeError):
    """Training cannot go on: what happened, where, and what to do; the checkpoints are from before."""


class NonFiniteError(TrainingFault):
    """Training has produced inf or NaN."""
