"""Denoising diffusion of action chunks, over the schedulers of the library diffusers.

Ho et al. 2020 (DDPM), Song et al. 2021 (DDIM). At step k there is x_k = √ᾱ_k · a + √(1 − ᾱ_k) · ε.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from trainer.utils.errors import UsageError
from trainer.utils.random import Random

SchedulerName = Literal["ddpm", "ddim"]
BetaSchedule = Literal["squaredcos_cap_v2", "linear", "scaled_linear"]
Prediction = Literal["epsilon", "sample", "v_prediction"]


class Diffusion:
    """Adds noise in training and takes it away again, with random numbers that belong to samples.

    Both samplers are the one scheduler of diffusers that takes its noise from outside. DDIM with η = 0 is
    deterministic; with η = 1, and the predicted noise computed anew from the clipped action, it is DDPM,
    whose own class in diffusers draws its noise by itself.

    Args:
        scheduler: `ddpm` draws noise in every step but the last, `ddim` only at the start.
        num_train_steps: K, steps from action to noise.
        num_inference_steps: steps from noise to action, at most K.
        beta_schedule: how fast noise is added.
        prediction: what the network is trained to predict.
        clip_range: predicted actions are clipped to ± so much in every step; None clips nothing.

    Raises:
        UsageError: diffusers is not installed.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        scheduler: SchedulerName,
        num_train_steps: int,
        num_inference_steps: int,
        beta_schedule: BetaSchedule,
        prediction: Prediction,
        clip_range: float | None,
    ) -> None:
        if num_train_steps < 1:
            raise ValueError(f"num_train_steps is {num_train_steps}, but at least 1 is needed")
        if not 1 <= num_inference_steps <= num_train_steps:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}, but it must be 1 to num_train_steps "
                f"({num_train_steps})"
            )
        if clip_range is not None and not clip_range > 0:
            raise ValueError(f"clip_range is {clip_range}, but it must be greater than 0, or null")
        self.num_train_steps = num_train_steps
        self.prediction = prediction
        self._draws = scheduler == "ddpm"
        self._scheduler: Any = _ddim_scheduler()(
            num_train_timesteps=num_train_steps,
            beta_schedule=beta_schedule,
            prediction_type=prediction,
            clip_sample=clip_range is not None,
            clip_sample_range=1.0 if clip_range is None else clip_range,
        )
        self._scheduler.set_timesteps(num_inference_steps)
        # On the host, so that choosing a step waits for no device.
        self._steps: list[int] = self._scheduler.timesteps.tolist()

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ of every step, `(K,)`."""
        alphas: Tensor = self._scheduler.alphas_cumprod
        return alphas

    def training_point(self, action: Tensor, random: Random) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a step and noise for every chunk.

        Args:
            action: `(B, S, A)`.
            random: the numbers to draw.

        Returns:
            The steps `(B,)` int64 from 0, the noisy chunks `(B, S, A)`, and what is to be predicted of them.
        """
        drawn = random.uniform((len(action),)) * self.num_train_steps
        # The largest number below 1, times K, may be rounded up.
        steps = drawn.long().clamp_(max=self.num_train_steps - 1)
        noise = random.normal(tuple(action.shape))
        point: Tensor = self._scheduler.add_noise(action, noise, steps)
        if self.prediction == "epsilon":
            return steps, point, noise
        if self.prediction == "sample":
            return steps, point, action
        return steps, point, self._scheduler.get_velocity(action, noise, steps)

    def sample(
        self, network: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, int, int], random: Random
    ) -> Tensor:
        """Return action chunks of `shape` `(B, S, A)`.

        Args:
            network: `(step (B,), x (B, S, A))` → what it predicts, `(B, S, A)`.
            shape: B, S, A.
            random: the numbers to draw.
        """
        x = random.normal(shape)
        for step in self._steps:
            times = torch.full((shape[0],), step, device=x.device)
            predicted = network(times, x).to(x.dtype)
            drawn = {"eta": 1.0, "variance_noise": random.normal(shape)} if self._draws and step else {}
            x = self._scheduler.step(
                predicted, step, x, use_clipped_model_output=self._draws, **drawn
            ).prev_sample
        return x


def _ddim_scheduler() -> Any:
    """Return the class; importing the library takes seconds, so only who diffuses pays for it."""
    try:
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    except ImportError:
        raise UsageError(
            "Diffusion Policy needs the package 'diffusers', which is not installed: "
            "pip install 'trainer-il[diffusion]'"
        ) from None
    return DDIMScheduler
