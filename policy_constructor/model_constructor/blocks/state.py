"""Blocks of policies that see numbers instead of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_constructor.blocks.encodings import geometric_frequencies, sine_cosine
from model_constructor.blocks.layers import ZeroLinear

# The number of frequencies, half the channels, of a time embedding; the highest turns 160 times in [0, 1].
TIME_FREQUENCIES = 32


class PlanarKeypoints(nn.Module):
    """Turn the pose of a rigid body in the plane into the coordinates of points that are fixed on it.

    A network learns contacts more easily from where the corners are than from an angle that jumps at ±pi.

    Args:
        points: n body points `[x, y]` in the body's frame, in world units.
        center: world coordinate that becomes 0, one number or `[x, y]`.
        scale: world length that becomes 1.

    Shapes:
        `(…, 3)` holding x, y and the angle in radians → `(…, 2n)` holding x0, y0, x1, y1, …

    Raises:
        ValueError: for points that are no list of pairs, a centre of another size, or a scale that is not
            positive.
    """

    points: Tensor
    center: Tensor

    def __init__(
        self, *, points: Sequence[Sequence[float]], center: float | Sequence[float], scale: float
    ) -> None:
        super().__init__()
        if not points or any(len(point) != 2 for point in points):
            raise ValueError("'points' must be a non-empty list of [x, y] pairs")
        if not scale > 0:
            raise ValueError(f"'scale' must be positive, got {scale}")
        middle = [float(center)] * 2 if isinstance(center, (int, float)) else [float(c) for c in center]
        if len(middle) != 2:
            raise ValueError(f"'center' must be a number or [x, y], got {center}")
        # Kept in world units over the scale, so that nothing is left to multiply in the forward but the pose.
        self.inverse_scale = 1.0 / float(scale)
        self.register_buffer("points", torch.tensor(points, dtype=torch.float32) / scale, persistent=False)
        self.register_buffer("center", torch.tensor(middle), persistent=False)

    def forward(self, pose: Tensor) -> Tensor:
        """`(…, 3)` → `(…, 2n)`."""
        position = (pose[..., None, :2] - self.center) * self.inverse_scale
        sine, cosine = pose[..., 2:].sin(), pose[..., 2:].cos()
        x, y = self.points[:, 0], self.points[:, 1]
        rotated = torch.stack([x * cosine - y * sine, x * sine + y * cosine], dim=-1)
        return (position + rotated).flatten(-2)

    def extra_repr(self) -> str:
        """Say how many points there are."""
        return f"{self.points.shape[0]} points"


class ModulatedResidualBlock(nn.Module):
    """`x + gate · MLP(LayerNorm(x) · (1 + scale) + shift)`: the residual block of DiT, no attention."""

    def __init__(self, *, width: int, modulation_dim: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.modulation = ZeroLinear(modulation_dim, 3 * width)
        self.up = nn.Linear(width, expansion * width)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor, modulation_input: Tensor) -> Tensor:
        """`(B, width)` and `(B, modulation_dim)` → `(B, width)`."""
        shift, scale, gate = self.modulation(modulation_input).chunk(3, dim=-1)
        hidden = torch.addcmul(shift, F.layer_norm(x, (self.width,)), 1 + scale)
        return torch.addcmul(x, gate, self.down(self.dropout(F.silu(self.up(hidden)))))


class FlowVelocityMLP(nn.Module):
    """Velocity field of a flow-matching policy over action chunks, as a residual MLP.

    Pre-norm residual blocks whose shift, scale and gate come from the condition and the time through a
    modulation that starts at zero, so that training starts from the identity (adaptive LayerNorm, Peebles &
    Xie 2023, "Scalable Diffusion Models with Transformers"). The flow is that of Lipman et al. 2023, "Flow
    Matching for Generative Modeling": t = 0 is noise, t = 1 is data.

    The condition enters twice: beside the flattened noise at the input, and through the modulation. A
    condition that carries its raw features beside what an encoder made of them keeps a short way to the
    network.

    Args:
        action_dim: size A of one action.
        action_horizon: number S of actions in a chunk.
        condition_dim: size C of the condition.
        width: size of the residual stream.
        num_blocks: number of residual blocks.
        time_dim: size of the vector in which condition and time meet, from which all blocks are modulated.
        expansion: hidden size of a block over its width.
        dropout: within the blocks.

    Shapes:
        `time (B,)` or `(B, 1)` in [0, 1], `noise (B, S, A)`, `condition (B, C)` → velocity `(B, S, A)`.

    Raises:
        ValueError: for sizes below 1.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        action_horizon: int,
        condition_dim: int,
        width: int,
        num_blocks: int,
        time_dim: int,
        expansion: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {
            "action_dim": action_dim,
            "action_horizon": action_horizon,
            "condition_dim": condition_dim,
            "width": width,
            "num_blocks": num_blocks,
            "time_dim": time_dim,
            "expansion": expansion,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"'{name}' must be at least 1, got {size}")
        self.action_shape = (action_horizon, action_dim)
        chunk = action_horizon * action_dim
        self.time_mlp = nn.Sequential(
            nn.Linear(2 * TIME_FREQUENCIES, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
        )
        self.condition_projection = nn.Linear(condition_dim, time_dim)
        self.input_layer = nn.Linear(chunk + condition_dim, width)
        self.blocks = nn.ModuleList(
            ModulatedResidualBlock(width=width, modulation_dim=time_dim, expansion=expansion, dropout=dropout)
            for _ in range(num_blocks)
        )
        self.output_norm = nn.LayerNorm(width)
        self.output_layer = nn.Linear(width, chunk)

    def forward(self, time: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity `(B, S, A)` at `time` of the chunks `noise`."""
        # Made anew each time: a buffer would be rounded together with the weights, and 1000 radians with it.
        frequencies = geometric_frequencies(TIME_FREQUENCIES, 1.0, 1000.0, like=time)
        embedding = sine_cosine(time.reshape(-1), frequencies).to(noise.dtype)
        modulation_input = F.silu(self.condition_projection(condition) + self.time_mlp(embedding))
        x = self.input_layer(torch.cat([noise.flatten(1), condition], dim=-1))
        for block in self.blocks:
            x = block(x, modulation_input)
        return self.output_layer(self.output_norm(x)).unflatten(-1, self.action_shape)
