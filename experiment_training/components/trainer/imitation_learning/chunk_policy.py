"""What policies share that encode the observation once and decode an action chunk from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from model_constructor import closest
from torch import Tensor, nn

from trainer.modeling.observations import encoder_arguments
from trainer.templates import Policy


class ChunkPolicy(Policy):
    """A policy of two components, an encoder of the observation and a decoder of the action chunk.

    `observation_encoder`, whose graph inputs are named after the observation features it wants (`state` takes
    `observation.state`), returns the condition of the decoder.

    Args:
        components: the two components.
        action_horizon: S, the length of a chunk.
        action_dim: A.
        n_action_steps: how many actions of a chunk are executed before the next one is asked for.
        train_on_padding: whether steps beyond the episode, where its first or last action is repeated, count
            in the loss.

    Attributes:
        method: what error messages call the policy.
        decoder_name: the component that decodes.

    Raises:
        ValueError: a component is missing, or a number is out of range.
    """

    method: ClassVar[str]
    decoder_name: ClassVar[str] = "velocity_decoder"

    def __init__(
        self,
        components: nn.ModuleDict,
        *,
        action_horizon: int,
        action_dim: int,
        n_action_steps: int = 8,
        train_on_padding: bool = False,
    ) -> None:
        super().__init__()
        check_needed(components, ("observation_encoder", self.decoder_name), self.method)
        check_executed(n_action_steps, action_horizon)
        self.components = components
        self.action_shape = (action_horizon, action_dim)
        self.n_action_steps = n_action_steps
        self.train_on_padding = train_on_padding

    def condition(self, batch: dict[str, Tensor]) -> Tensor:
        """Return what the encoder makes of the observations, `(B, …)`."""
        encoder = self.components["observation_encoder"]
        condition: Tensor = encoder(**encoder_arguments(encoder, batch))
        return condition

    def left_out(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Return the flags `(B, S)` of the steps that the loss leaves out; None if it takes all."""
        return None if self.train_on_padding else batch.get("action_is_pad")


def check_needed(components: nn.ModuleDict, needed: Sequence[str], who: str) -> None:
    """Raise `ValueError` for components that are not there."""
    missing = [name for name in needed if name not in components]
    if missing:
        others = [name for name in components if name not in needed]
        near = [f"; is '{one}' to be it?" for one in closest(missing[0], others)]
        raise ValueError(f"{who} needs a component named {' and one named '.join(missing)}{''.join(near)}")


def check_executed(n_action_steps: int, action_horizon: int) -> None:
    """Raise `ValueError` if so many actions of a chunk cannot be executed."""
    if not 1 <= n_action_steps <= action_horizon:
        raise ValueError(f"n_action_steps is {n_action_steps}, but a chunk holds 1 to {action_horizon}")
