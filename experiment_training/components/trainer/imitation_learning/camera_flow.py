"""What the flow-matching families share: features of cameras and depth, the flow, and its padding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from experiment_training.components.trainer.imitation_learning.chunk_policy import (
    check_executed,
    check_needed,
)
from experiment_training.components.trainer.imitation_learning.flow_matching import (
    FlowSample,
    IntegrationMethod,
    check_integration,
    chunk_error,
    integrate,
    sample_flow,
)
from trainer.templates import Context, Policy
from trainer.utils.random import Random

CAMERAS = ("cam_head", "cam_left", "cam_right")
STATE = "observation.state"


def camera_frames(batch: dict[str, Tensor], cameras: Sequence[str]) -> list[Tensor]:
    """Return what each camera sees: the present frame, `(B, 3, H, W)` in [0, 1].

    Where a task is learned from its state, an observation of numbers `(B, T, N)` stands in a camera's place.

    Args:
        batch: of it, `observation.images.<camera>`; a name that begins with `observation.` stands for itself.
        cameras: their names.

    Raises:
        ValueError: a camera is not in the batch, or has more than one frame.
    """
    frames = []
    for camera in cameras:
        key = camera if camera.startswith("observation.") else f"observation.images.{camera}"
        frame = batch.get(key)
        if frame is None:
            offered = [name for name in batch if name.startswith("observation.image")]
            raise ValueError(
                f"there is no '{key}' in the batch, whose cameras are {', '.join(offered) or 'none'}; name "
                "them in the trainer's parameter 'cameras'"
            )
        if frame.ndim > 4:
            raise ValueError(
                f"'{key}' has shape {tuple(frame.shape)}, but one frame (B, 3, H, W) is read: leave "
                "obs_images_history at 1"
            )
        frames.append(frame)
    return frames


def drop_cameras(frames: Sequence[Tensor], probability: float, random: Random) -> list[Tensor]:
    """Return the frames with one camera of some samples black: of a sample, at most one, all alike likely.

    Args:
        frames: of each camera, `(B, …)`; they stay as they are.
        probability: that a sample loses a camera.
        random: where the numbers come from.
    """
    draw = random.uniform((frames[0].shape[0],)) * len(frames)
    kept = [(draw < n) | (draw >= n + probability) for n in range(len(frames))]
    return [frame * own.view(-1, *[1] * (frame.ndim - 1)) for frame, own in zip(frames, kept, strict=True)]


def as_tokens(features: Tensor) -> Tensor:
    """Return feature maps `(B, C, h, w)` as tokens `(B, h·w, C)`, by row."""
    return features.flatten(2).transpose(1, 2)


def latent_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean squared distance of latent tokens, a scalar.

    Of normal distributions around both with variance 1 it is twice the KL divergence of a dimension.
    """
    return (one.float() - other.float()).square().mean()


class CameraFlowPolicy(Policy):
    """Base of the policies that draw action chunks by a flow, on the sight of cameras. B batch, S chunk.

    A subclass names the components that it `needs` and says what their conditions and losses are. The
    observations are `observation.state (B, T, P)`, joined with the currents where the dataset has them, and
    one frame of every camera.

    Args:
        components: those that the subclass needs; others are left alone.
        action_horizon: S, the length of a chunk.
        action_dim: A.
        n_action_steps: how many actions of a chunk are executed before the next one is drawn; half of it by
            default.
        integration_steps: steps from noise to action.
        integration_method: `euler`, `midpoint` (two evaluations a step) or `dopri5` (adaptive).
        train_on_padding: whether steps beyond the end of an episode, where the last action is repeated,
            count in the losses.
        cameras: names below `observation.images.`, the head's first; or whole names of observations.

    Raises:
        ValueError: a component is missing, or a number is out of range.
    """

    needs: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        components: nn.ModuleDict,
        *,
        action_horizon: int = 40,
        action_dim: int = 24,
        n_action_steps: int | None = None,
        integration_steps: int = 10,
        integration_method: IntegrationMethod = "euler",
        train_on_padding: bool = False,
        cameras: Sequence[str] = CAMERAS,
    ) -> None:
        super().__init__()
        check_needed(components, self.needs, type(self).__name__)
        chosen = max(1, action_horizon // 2) if n_action_steps is None else n_action_steps
        check_executed(chosen, action_horizon)
        check_integration(integration_steps, integration_method)
        if not cameras or len(set(cameras)) < len(cameras):
            raise ValueError(f"cameras must be different names, at least one, not {list(cameras)}")
        self.components = components
        self.transport_loss: nn.Module | None = None
        self.ot_weight = 0.0
        self.action_shape = (action_horizon, action_dim)
        self.n_action_steps = chosen
        self.integration_steps = integration_steps
        self.integration_method = integration_method
        self.train_on_padding = train_on_padding
        self.cameras = tuple(cameras)
        trained = {name for name, c in components.items() if any(p.requires_grad for p in c.parameters())}
        self._frozen = frozenset(components) - trained

    def call(self, name: str, **inputs: Any) -> Any:
        """Call a component; a frozen one leaves no graph for gradients."""
        with torch.no_grad() if name in self._frozen else contextlib.nullcontext():
            return self.components[name](**inputs)

    def camera_features(
        self, frames: Sequence[Tensor], backbone: str = "backbone"
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return feature maps `(B, C, h, w)` and semantics `(B, F)` of each camera, from one call."""
        features, semantics = self.call(backbone, image=torch.cat(list(frames)))
        return list(features.chunk(len(frames))), list(semantics.chunk(len(frames)))

    def depth_tokens(self, frames: Sequence[Tensor], layers: Sequence[int]) -> list[Tensor]:
        """Return the depth features of each camera as tokens `(B, n·h·w, C)`, block after block."""
        features = self.call("da3", image=torch.cat(list(frames)), export_feat_layers=list(layers))
        return list(features.flatten(1, 3).chunk(len(frames)))

    def sample_flow(self, batch: dict[str, Tensor], context: Context) -> FlowSample:
        """Draw times and noise for the actions of a batch.

        Raises:
            ValueError: its chunks have another shape than the policy's.
        """
        shape = tuple(batch["action"].shape[1:])
        if shape != self.action_shape:
            raise ValueError(
                f"the data has chunks of shape {shape}, but the policy is made for {self.action_shape}: "
                "action_horizon and action_dim of train.trainer.params"
            )
        return sample_flow(batch["action"], context.random)

    def action_error(self, error: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean of an error `(B, S, A)` over what is no padding; see `chunk_error`."""
        is_pad = None if self.train_on_padding else batch.get("action_is_pad")
        return chunk_error(error, is_pad, batch.get("action_dim_is_pad"))

    def use_transport(self, loss: nn.Module | None, weight: float) -> None:
        """Make the module of `train.loss`, weighed by `weight`, part of the loss; None with 0.

        Raises:
            ValueError: a transport is weighed and there is none, or the other way round.
        """
        if weight < 0:
            raise ValueError(f"ot_weight must not be negative, it is {weight}")
        if loss is None and weight > 0:
            raise ValueError(f"ot_weight is {weight}, but there is no train.loss, such as sinkhorn_knopp")
        if loss is not None and weight == 0:
            raise ValueError("with ot_weight 0 train.loss has no effect; leave it out")
        self.transport_loss, self.ot_weight = loss, weight

    def transport(self, predicted: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the cost of transporting predicted chunks `(B, S, A)` to the batch's, by `transport_loss`.

        Padding is predicted as it is in the data, so it costs nothing and has no gradient.
        """
        assert self.transport_loss is not None
        action = batch["action"]
        is_pad = None if self.train_on_padding else batch.get("action_is_pad")
        dim_is_pad = batch.get("action_dim_is_pad")
        if is_pad is not None:
            predicted = torch.where(is_pad[:, :, None], action, predicted)
        if dim_is_pad is not None:
            predicted = torch.where(dim_is_pad[:, None], action, predicted)
        state = batch[STATE]
        cost: Tensor = self.transport_loss(
            pred_action=predicted, target_action=action, state_pred=state, state_target=state
        )
        return cost

    def follow(self, velocity: Callable[[Tensor, Tensor], Tensor], rows: int, context: Context) -> Tensor:
        """Return the chunks `(rows, S, A)` to which a velocity leads from noise."""
        noise = context.random.normal((rows, *self.action_shape))
        return integrate(velocity, noise, self.integration_steps, self.integration_method)


def twice(tensor: Tensor) -> Tensor:
    """Return a batch `(B, …)` behind itself, `(2B, …)`."""
    return torch.cat([tensor, tensor])


def with_start(flow: FlowSample) -> tuple[Tensor, Tensor]:
    """Return times `(2B,)` and points `(2B, S, A)`: those drawn, then t = 0 and the noise of each."""
    time = torch.cat([flow.time, torch.zeros_like(flow.time)])
    return time, torch.cat([flow.point, flow.noise])
