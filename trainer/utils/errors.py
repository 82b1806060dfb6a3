"""Errors that are meant for users: what is wrong, where, and what to do."""

from __future__ import annotations


class UsageError(ValueError):
    """Something was asked for that cannot be had; one sentence says what, and what to do."""


class TrainingFault(RuntimeError):
    """Training cannot go on: what happened, where, and what to do; the checkpoints are from before."""


class NonFiniteError(TrainingFault):
    """Training has produced inf or NaN."""
