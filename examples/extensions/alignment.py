"""An objective without actions: which observation belongs to which action chunk.

It trains two encoders whose products are large where observation and chunk come from the same moment
(InfoNCE, van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018). Nothing
acts, so there is nothing to evaluate in a simulator; its checkpoints give pretrained encoders to
`train.load_dir`. Add `examples.extensions.alignment` to `plugins`, set `train.trainer.type` to
`alignment_trainer`, and give two components: `observation_encoder` (observations → `(B, C)`) and
`action_encoder` (`(B, S, A)` → `(B, C)`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from trainer.engine.policy_trainer import register_policy
from trainer.modeling.observations import encoder_arguments
from trainer.templates import Context, Objective


@register_policy("alignment_trainer")
class Alignment(Objective):
    """Tells the chunk of an observation from those of the rest of its rank's micro-batch.

    Args:
        components: the two encoders.
        temperature: divides the cosine of the two embeddings.

    Raises:
        ValueError: a loss is given, or the temperature is not positive.
    """

    def __init__(self, components: nn.ModuleDict, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}, but it must be positive")
        self.components = components
        self.temperature = temperature

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total` in nats, and the share of chunks that were told `right`."""
        encoder = self.components["observation_encoder"]
        seen = normalize(encoder(**encoder_arguments(encoder, batch)), dim=-1)
        done = normalize(self.components["action_encoder"](batch["action"]), dim=-1)
        scores = seen @ done.T / self.temperature
        own = torch.arange(len(scores), device=scores.device)
        return {"total": cross_entropy(scores, own), "right": (scores.argmax(1) == own).float().mean()}
