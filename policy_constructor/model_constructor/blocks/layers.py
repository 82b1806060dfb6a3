"""Small layers that several blocks share."""

from __future__ import annotations

from torch import nn


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero and means it.

    Its own class, so that a general weight initialisation that looks for `nn.Linear` by exact type leaves
    it alone.
    """

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """Return Linear → ELU."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ELU())
