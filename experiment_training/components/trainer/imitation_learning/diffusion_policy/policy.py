"""Diffusion Policy over an observation encoder and a noise predictor."""

from __future__ import annotations

from torch import Tensor, nn

from experiment_training.components.trainer.imitation_learning.chunk_policy import ChunkPolicy
from experiment_training.components.trainer.imitation_learning.diffusion_policy.diffusion import (
    BetaSchedule,
    Diffusion,
    Prediction,
    SchedulerName,
)
from experiment_training.components.trainer.imitation_learning.flow_matching import chunk_error
from trainer.templates import Context


class DiffusionPolicy(ChunkPolicy):
    """Draws action chunks by taking noise away, step by step.

    Chi et al. 2023, "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion": the loss is
    ‖ε − ε_θ(o, √ᾱ_k · a + √(1 − ᾱ_k) · ε, k)‖² / (S·A) for a step k and noise ε drawn for every sample.

    As published, a chunk begins at the oldest of T observations: with `obs_proprio_history: T` and
    `action_offset: 1 − T` in the dataset, whose windows also tell a robot to execute from the present action
    on. Actions must lie in [−1, 1] (`normalization: {action: min_max}`) for clipping to make sense.

    Components: `observation_encoder` returns a condition, `(B, C)` for the U-Net and `(B, T, C)` for the
    transformer; `noise_predictor` takes `timestep (B,), sample (B, S, A), condition` and returns the
    predicted noise `(B, S, A)`.

    Args:
        components: the two components.
        action_horizon: S, the length of a chunk.
        action_dim: A.
        n_action_steps: how many actions are executed, from the present one on, before a new chunk is drawn.
        noise_scheduler: `ddpm` draws noise in every step, `ddim` only at the start.
        num_train_steps: steps from action to noise.
        num_inference_steps: steps from noise to action; as many as in training if not given.
        beta_schedule: how fast noise is added.
        prediction: what is predicted: `epsilon` the noise, `sample` the action, or `v_prediction`.
        clip_sample: clip the predicted action in every step.
        clip_sample_range: to ± so much, in normalized units.
        train_on_padding: whether steps beyond the episode, where its first or last action is repeated, count
            in the loss; as published they do.

    Raises:
        UsageError: diffusers is not installed.
        ValueError: a component is missing, or a number is out of range.
    """

    method = "Diffusion Policy"
    decoder_name = "noise_predictor"

    def __init__(
        self,
        components: nn.ModuleDict,
        *,
        action_horizon: int,
        action_dim: int,
        n_action_steps: int = 8,
        noise_scheduler: SchedulerName = "ddpm",
        num_train_steps: int = 100,
        num_inference_steps: int | None = None,
        beta_schedule: BetaSchedule = "squaredcos_cap_v2",
        prediction: Prediction = "epsilon",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        train_on_padding: bool = True,
    ) -> None:
        super().__init__(
            components,
            action_horizon=action_horizon,
            action_dim=action_dim,
            n_action_steps=n_action_steps,
            train_on_padding=train_on_padding,
        )
        self.diffusion = Diffusion(
            scheduler=noise_scheduler,
            num_train_steps=num_train_steps,
            num_inference_steps=num_train_steps if num_inference_steps is None else num_inference_steps,
            beta_schedule=beta_schedule,
            prediction=prediction,
            clip_range=clip_sample_range if clip_sample else None,
        )

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total`, the mean squared error of the prediction.

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)` and the encoder's observations.
            context: steps and noise.
        """
        steps, point, target = self.diffusion.training_point(batch["action"], context.random)
        predicted = self.components["noise_predictor"](
            timestep=steps, sample=point, condition=self.condition(batch)
        )
        error = (predicted - target).square()
        return {"total": chunk_error(error, self.left_out(batch), batch.get("action_dim_is_pad"))}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, S, A)`, normalized."""
        condition = self.condition(observation)
        network = self.components["noise_predictor"]
        return self.diffusion.sample(
            lambda step, x: network(timestep=step, sample=x, condition=condition),
            (condition.shape[0], *self.action_shape),
            context.random,
        )
