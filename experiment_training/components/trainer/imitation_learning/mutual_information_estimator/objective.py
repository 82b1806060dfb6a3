"""Noisy autoencoders of actions and of states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiment_training.components.trainer.imitation_learning.camera_flow import camera_frames
from experiment_training.components.trainer.imitation_learning.chunk_policy import check_needed
from experiment_training.components.trainer.imitation_learning.flow_matching import chunk_error
from trainer.templates import Context, Objective

PROPRIO = "observation.proprio_state"


class MutualInformationEstimator(Objective):
    """Learns embeddings of actions and of states that survive noise of variance 1; it acts nowhere.

    As the noise is fixed and the embeddings are kept short, each is a channel of limited capacity that keeps
    what says most of its source; information between actions and states can then be measured between them.

    Components: `action_encoder` (chunk → `embedding`), `action_decoder` (embedding → `action`),
    `state_encoder` (states and image → `embedding`), `state_decoder` (embedding → `state`, `cam_0`).

    Args:
        components: the four components.
        camera: name below `observation.images.` of the camera that the states hold.
        image_size: edge in pixels of the square to which its frames are resized.
        embedding_weight: weight of the mean squares of both embeddings.
        reconstruction_weight: weight of the errors of image, action and state.
        train_on_padding: whether actions beyond the end of an episode count.

    Raises:
        ValueError: a component is missing, or a number is out of range.
    """

    def __init__(
        self,
        components: nn.ModuleDict,
        *,
        camera: str = "cam_head",
        image_size: int = 128,
        embedding_weight: float = 0.01,
        reconstruction_weight: float = 0.005,
        train_on_padding: bool = False,
    ) -> None:
        super().__init__()
        needed = ("action_encoder", "action_decoder", "state_encoder", "state_decoder")
        check_needed(components, needed, type(self).__name__)
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, it is {image_size}")
        self.components = components
        self.camera = camera
        self.image_size = image_size
        self.embedding_weight = embedding_weight
        self.reconstruction_weight = reconstruction_weight
        self.train_on_padding = train_on_padding

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total` and the mean squared errors `img_recon`, `action_recon` and `state_recon`.

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)`, `observation.proprio_state (B, T,
                P)` and the camera.
            context: noise.
        """
        action, state = batch["action"], batch[PROPRIO]
        with torch.no_grad():
            (frame,) = camera_frames(batch, [self.camera])
            size = (self.image_size, self.image_size)
            image = F.interpolate(frame, size=size, mode="bilinear", align_corners=False)
        of_action = self.components["action_encoder"](action=action)["embedding"]
        of_state = self.components["state_encoder"](data={"state": state, "cam_0": image})["embedding"]
        actions = self.components["action_decoder"](embedding=_noisy(of_action, context))["action"]
        states = self.components["state_decoder"](embedding=_noisy(of_state, context))
        is_pad = None if self.train_on_padding else batch.get("action_is_pad")
        losses = {
            "img_recon": F.mse_loss(states["cam_0"].float(), image),
            "action_recon": chunk_error((actions - action).square(), is_pad, batch.get("action_dim_is_pad")),
            "state_recon": F.mse_loss(states["state"].float(), state),
        }
        lengths = of_action.float().square().mean() + of_state.float().square().mean()
        errors = losses["img_recon"] + losses["action_recon"] + losses["state_recon"]
        return {"total": self.embedding_weight * lengths + self.reconstruction_weight * errors, **losses}


def _noisy(embedding: Tensor, context: Context) -> Tensor:
    return embedding + context.random.normal(tuple(embedding.shape)).to(embedding.dtype)
