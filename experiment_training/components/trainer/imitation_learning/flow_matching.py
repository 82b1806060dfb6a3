"""Conditional flow matching on action chunks: times, paths, targets, integration.

Lipman et al., "Flow Matching for Generative Modeling" (2023), with straight paths: at t = 0 there is noise ε,
at t = 1 the action a, between them x_t = (1 - t)·ε + t·a, and the velocity to learn is u = a - ε.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainer.utils.random import Random

TIME_BETA = 1.5

IntegrationMethod = Literal["euler", "midpoint", "dopri5"]
TOLERANCE = 1e-4
"""Relative and absolute error that a step of `dopri5` may make, in normalized units."""


class FlowSample(NamedTuple):
    """One training point per sample: B batch, S chunk, A action size."""

    time: Tensor  # (B,)
    point: Tensor  # (B, S, A), x_t
    velocity: Tensor  # (B, S, A), the target u
    noise: Tensor  # (B, S, A), ε


def sample_flow(action: Tensor, random: Random) -> FlowSample:
    """Draw a time and a noise for every action chunk `(B, S, A)`.

    Times follow Beta(1, 1.5), by inversion of its distribution function 1 - (1 - t)^1.5: more of them lie
    near the noise, where the choice between modes is made.
    """
    batch = action.shape[0]
    time = 1.0 - (1.0 - random.uniform((batch,))) ** (1.0 / TIME_BETA)
    noise = random.normal(tuple(action.shape))
    t = time[:, None, None]
    return FlowSample(time, torch.lerp(noise, action, t), action - noise, noise)


def check_integration(steps: int, method: IntegrationMethod) -> None:
    """Check how a flow is to be followed.

    Raises:
        ValueError: there is no step, or the library of an adaptive method is not there.
    """
    if steps < 1:
        raise ValueError(f"integration_steps is {steps}, but at least 1 is needed")
    if method == "dopri5":
        try:
            import torchdiffeq  # noqa: F401
        except ImportError:
            raise ValueError(
                "integration_method dopri5 needs the library torchdiffeq; pip install 'trainer-il[flow]'"
            ) from None


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    steps: int,
    method: IntegrationMethod = "euler",
) -> Tensor:
    """Follow the flow from noise to actions.

    Args:
        velocity: `(time (B,), x (B, S, A))` → `(B, S, A)`.
        noise: ε `(B, S, A)`.
        steps: number of steps of equal length.
        method: `euler` evaluates the velocity once a step, at its beginning; `midpoint` twice, and goes by
            the velocity halfway. `dopri5` (Dormand & Prince 1980, of torchdiffeq) chooses its steps, from a
            first one of `1 / steps`, by the error of the whole batch, so that an action depends a little on
            the batch that it is in; each of its steps waits for the device.
    """
    if method == "dopri5":
        return _integrate_adaptively(velocity, noise, steps)
    x = noise
    for k in range(steps):
        if method == "euler":
            x = x + velocity(_times(noise, k / steps), x).to(noise.dtype) / steps
        else:
            halfway = x + velocity(_times(noise, k / steps), x).to(noise.dtype) / (2 * steps)
            x = x + velocity(_times(noise, (k + 0.5) / steps), halfway).to(noise.dtype) / steps
    return x


def _times(noise: Tensor, time: float) -> Tensor:
    return torch.full((noise.shape[0],), time, dtype=noise.dtype, device=noise.device)


def _integrate_adaptively(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    from torchdiffeq import odeint

    def of_time(time: Tensor, x: Tensor) -> Tensor:
        return velocity(time.to(noise.dtype).expand(noise.shape[0]), x).to(noise.dtype)

    ends = torch.tensor([0.0, 1.0], dtype=noise.dtype, device=noise.device)
    first = {"first_step": 1.0 / steps}
    path: Tensor = odeint(
        of_time, noise, ends, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5", options=first
    )
    return path[-1]


def chunk_error(error: Tensor, is_pad: Tensor | None, dim_is_pad: Tensor | None = None) -> Tensor:
    """Return the mean of an error `(B, S, A)` over samples, each averaged over its own valid numbers.

    Args:
        error: error of every action.
        is_pad: `(B, S)`, true where the chunk reaches beyond its episode and repeats the last action; None
            counts every step. Averaging per sample first keeps the value independent of how samples are
            spread over ranks.
        dim_is_pad: `(B, A)`, true where a sample's robot has no such action, in a mixture of datasets.
    """
    values = error.float()
    per_step = values.mean(dim=-1) if dim_is_pad is None else _mean_of_own(values, dim_is_pad[:, None])
    return per_step.mean() if is_pad is None else _mean_of_own(per_step, is_pad).mean()


def _mean_of_own(values: Tensor, is_pad: Tensor) -> Tensor:
    """Return the mean over the last dimension of what is no padding; 0 where all of it is."""
    own = (~is_pad).to(values.dtype)
    return (values * own).sum(dim=-1) / own.expand_as(values).sum(dim=-1).clamp(min=1.0)
