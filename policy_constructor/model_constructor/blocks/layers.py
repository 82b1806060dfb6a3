"""Small layers that several blocks share."""

from __future__ import annotations

from torch import nn


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero and means it.

    `keep_init` asks a general weight initialisation to leave it alone.
    """

    keep_init = True

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """Return Linear → ELU."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ELU())
