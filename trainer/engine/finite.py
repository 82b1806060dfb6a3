"""Numbers that are not finite: updates left out, losses that end a run, weights that are not saved."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.modeling.component import is_sharded, local, on_any_rank
from trainer.utils.errors import NonFiniteError

SKIPPED = "skipped"
"""Metric: 1 where an update was left out because its gradients were not finite, else 0."""

_FIRST_SCALE, _GROWTH_INTERVAL, _MOST_SKIPPED = 2.0**16, 2000, 200


class FiniteUpdates:
    """Leaves out the updates whose gradients hold inf or NaN, and scales the loss where fp16 needs it.

    The verdict is made on the device and holds for all optimizers of an update. Optimizers that torch has
    fused read it there; for others it comes to the host, which waits for the device once per update. After
    their reduction the gradients are the same on all ranks, and so is the verdict.

    Scales are powers of two, so scaling changes no number that fp16 can hold. Each update that is left out
    halves the scale, 2000 good ones in a row double it (mixed precision training, arXiv:1710.03740).

    Args:
        device: where the gradients are.
        scaled: scale the loss; otherwise gradients are looked at and left as they are.
    """

    def __init__(self, device: torch.device, scaled: bool) -> None:
        self.scaled = scaled
        self.scale = torch.tensor(_FIRST_SCALE if scaled else 1.0, device=device)
        self.good = torch.zeros((), device=device)

    def scaled_loss(self, total: Tensor) -> Tensor:
        """Return what to differentiate."""
        return total * self.scale if self.scaled else total

    def verdict(self, gradients: Sequence[Tensor]) -> Tensor:
        """Take the scale out of the gradients and return 1 where the update must be left out, else 0."""
        if not gradients:
            return torch.zeros_like(self.scale)
        shares = [local(gradient) for gradient in gradients]
        if self.scaled:
            torch._foreach_mul_(shares, 1 / self.scale)
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(shares)])
        return on_any_rank((~norms.isfinite().all()).to(self.scale.dtype), gradients)

    def step(self, optimizers: Iterable[torch.optim.Optimizer], skipped: Tensor) -> None:
        """Make the update, or leave it out, and move the scale on."""
        on_host: bool | None = None
        for optimizer in optimizers:
            if getattr(optimizer, "_step_supports_amp_scaling", False) and not is_sharded(optimizer):
                optimizer.grad_scale, optimizer.found_inf = None, skipped  # type: ignore[attr-defined]
                optimizer.step()
                del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
                continue
            on_host = bool(skipped) if on_host is None else on_host
            if not on_host:
                optimizer.step()
        if self.scaled:
            self.good = (self.good + 1) * (1 - skipped)
            grown = (self.good >= _GROWTH_INTERVAL).to(self.scale.dtype)
            self.scale = self.scale * (1 - 0.5 * skipped) * (1 + grown)
            self.good = self.good * (1 - grown)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the scale and its age."""
        return {"scale": self.scale, "good": self.good}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` returned."""
        self.scale = state["scale"].to(self.scale.device)
        self.good = state["good"].to(self.good.device)


class LossWatch:
    """Looks at the losses that have come to the host, and ends a run that has gone wrong.

    Args:
        skipping: updates with non-finite gradients are left out; then a long row of them is an error.
    """

    def __init__(self, skipping: bool) -> None:
        self.skipping = skipping
        self._in_a_row = 0

    def look(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Look at the metrics of some steps, averaged over the ranks.

        Raises:
            NonFiniteError: a loss is inf or NaN, or nothing but skipped updates came for long.
        """
        for line in lines:
            total = line.get("total")
            if self.skipping:
                self._in_a_row = self._in_a_row + 1 if line.get(SKIPPED) else 0
                if self._in_a_row >= _MOST_SKIPPED:
                    raise NonFiniteError(
                        f"the last {_MOST_SKIPPED} updates up to step {line['step']} were skipped, because "
                        "their gradients are not finite; lower the learning rate or look at the data"
                    )
            elif isinstance(total, float) and not math.isfinite(total):
                numbers = {k: v for k, v in line.items() if isinstance(v, float) and k != "total"}
                others = [name for name, value in numbers.items() if not math.isfinite(value)]
                also = f" (and so are {', '.join(others)})" if others else ""
                raise NonFiniteError(
                    f"the loss is {total} at step {line['step']}{also}; the last checkpoint is from before. "
                    "Lower the learning rate, clip gradients (train.gradient_clip_val), look for NaN with "
                    "`trainer data inspect`, or leave such updates out (train.non_finite: skip)"
                )


def check_weights(
    states: Mapping[str, Mapping[str, Any]],
    averages: Mapping[str, Mapping[str, Any]],
    buffers: Mapping[str, Collection[str]],
    step: int,
) -> None:
    """Make sure that a moment is worth saving.

    Parameters must be finite. Buffers must not be NaN, which a batch norm keeps for ever; infinite ones are
    masks.

    Args:
        states: component → state.
        averages: component → averaged state.
        buffers: component → names in its state that are no parameters.
        step: number of updates so far.

    Raises:
        NonFiniteError: something is not, and in which component.
    """
    names: list[str] = []
    sound: list[Tensor] = []
    for name, state in states.items():
        floats = {key: t for key, t in state.items() if isinstance(t, Tensor) and t.is_floating_point()}
        averaged = averages.get(name, {}).values()
        kinds: dict[str, list[Tensor]] = {
            "weights": [t for key, t in floats.items() if key not in buffers.get(name, ())],
            "averaged weights": [t for t in averaged if isinstance(t, Tensor) and t.is_floating_point()],
        }
        for what, tensors in kinds.items():
            if tensors:
                names.append(f"the {what} of {name}")
                norms = [norm.float() for norm in torch._foreach_norm(tensors)]
                sound.append(torch.stack(norms).isfinite().all())
        statistics = [t for key, t in floats.items() if key in buffers.get(name, ())]
        if statistics:
            names.append(f"the statistics of {name}")
            sound.append(~torch.stack([b.isnan().any() for b in statistics]).any())
    if not sound:
        return
    verdicts = torch.stack(sound).tolist()
    broken = [name for name, good in zip(names, verdicts, strict=True) if not good]
    if broken:
        raise NonFiniteError(
            f"after {step} updates {' and '.join(broken)} are not finite, so they are not saved; the last "
            "checkpoint is from before. Look for NaN in the data with `trainer data inspect`"
        )
