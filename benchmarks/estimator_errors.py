"""What the mutual-information estimator reconstructs of held-out episodes, beside the variance of the data.

    python benchmarks/estimator_errors.py runs/mutual_information_estimator/exp1-small

The errors are those of the run's last validation. The variance is that of the same samples around their own
mean: of each number of a state, of each step and number of an action chunk (without steps beyond an episode),
of each pixel and colour. It is the error of the best decoder that ignores its embedding, so a share of 100 %
is nothing learned.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiment_training.components.trainer.imitation_learning.camera_flow import camera_frames
from experiment_training.components.trainer.imitation_learning.mutual_information_estimator.objective import (
    PROPRIO,
)
from trainer.config.loader import load_located
from trainer.data.batch_path import BatchPath
from trainer.data.loader import BatchLoader
from trainer.engine.build_data import build_data
from trainer.engine.check import check

AT_ONCE = 64


class Spread:
    """Sums from which the variance of every number of samples `(B, …)` follows."""

    def __init__(self) -> None:
        self.count: Tensor | float = 0.0
        self.sum: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, samples: Tensor, counted: Tensor | None = None) -> None:
        """Add samples `(B, …)`, of them what is `counted (B, …)`, all by default."""
        values = samples.double()
        weight = torch.ones_like(values) if counted is None else counted.double().expand_as(values)
        self.count = self.count + weight.sum(0)
        self.sum = self.sum + (values * weight).sum(0)
        self.squares = self.squares + (values.square() * weight).sum(0)

    def variance(self) -> float:
        """Return the variance around the mean of each number, averaged over all that was counted."""
        assert isinstance(self.count, Tensor)
        assert isinstance(self.sum, Tensor)
        around = self.squares - self.sum.square() / self.count.clamp(min=1)
        return float(around.sum() / self.count.sum())


def variances(run: Path) -> tuple[int, dict[str, float]]:
    """Return how many samples a run holds out, and the variance of what is reconstructed of them."""
    config = load_located(run / "config.yaml")
    data = build_data(check(config))
    if data.held_out is None:
        raise SystemExit(f"{run} holds no episodes out: set data.validation")
    params = config.data["train"]["trainer"]["params"]
    camera, size = params.get("camera", "cam_head"), params.get("image_size", 128)
    loader = BatchLoader(data.held_out, batch_size=1, path=BatchPath(data.normalizer))
    spreads = {name: Spread() for name in ("img_recon", "action_recon", "state_recon")}
    samples = len(data.held_out)
    for first in range(0, samples, AT_ONCE):
        batch = loader.sample(np.arange(first, min(first + AT_ONCE, samples)))
        (frame,) = camera_frames(batch, [camera])
        image = F.interpolate(frame, size=(size, size), mode="bilinear", align_corners=False)
        spreads["img_recon"].add(image)
        spreads["action_recon"].add(batch["action"], ~batch["action_is_pad"][:, :, None])
        spreads["state_recon"].add(batch[PROPRIO])
    return samples, {name: spread.variance() for name, spread in spreads.items()}


def main() -> None:
    """Print the table of a run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    last = json.loads((run / "validations.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    samples, spread = variances(run)
    print(f"{samples} samples of held-out episodes, after {last['step']} updates\n")
    print("| what | squared error | variance | share |\n| --- | --- | --- | --- |")
    for name, variance in spread.items():
        error = last[f"validation/{name}"]
        print(f"| `{name}` | {error:.4f} | {variance:.4f} | {error / variance:.0%} |")


if __name__ == "__main__":
    main()
