"""What a tracker of metrics is given."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.runtime import Runtime
from trainer.templates import RunIdentity

ALONE = Runtime(torch.device("cpu"))


def identity(folder: Path, first_step: int = 0) -> RunIdentity:
    return RunIdentity(folder, "project", "name", {"a": 1}, "abc12345", first_step)
