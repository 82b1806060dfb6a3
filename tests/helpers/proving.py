"""Checking and proving an experiment as the command does, without its printing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.config.errors import ConfigError, ConfigValidationIssue
from trainer.config.loader import load_located
from trainer.engine.build_data import build_data
from trainer.engine.check import check
from trainer.engine.proofs.claim import Claim
from trainer.engine.proofs.prove import prove


def claims_of(path: Path, overrides: Sequence[str] = (), ranks: int = 1) -> dict[str, Claim]:
    """Return claim → what came out."""
    checked = check(load_located(path, overrides), ranks)
    proof = prove(checked, build_data(checked, ranks), ranks)
    return {claim.text: claim for claim in proof.claims}


def mistakes_of(path: Path, overrides: Sequence[str] = (), ranks: int = 1) -> list[ConfigValidationIssue]:
    """Return everything that a check with a proof finds."""
    checked = check(load_located(path, overrides), ranks)
    try:
        data = build_data(checked, ranks)
        error = prove(checked, data, ranks).error(checked)
    except ConfigError as raised:
        error = raised
    return [] if error is None else error.issues
