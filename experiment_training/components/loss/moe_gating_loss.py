"""What keeps the gate of a mixture of experts from growing without bound and from using few experts."""

from __future__ import annotations

import torch
from torch import Tensor


def router_z_loss(logits: Tensor) -> Tensor:
    """Return mean_b (log Σ_e exp logits)², which keeps logits small.

    Zoph et al. 2022, "ST-MoE: Designing Stable and Transferable Sparse Expert Models".

    Args:
        logits: of the gate, `(B, E)`.
    """
    return torch.logsumexp(logits.float(), dim=-1).square().mean()


def switch_load_balancing_loss(probs: Tensor, expert_map: Tensor, top_k: int) -> Tensor:
    """Return E · Σ_e f_e · P_e, which is 1 where all experts are used alike.

    f_e is the share of the B·k choices that fell on expert e, P_e its mean probability (Fedus et al. 2022,
    "Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity").

    Args:
        probs: probabilities of the experts, `(B, E)`.
        expert_map: 1 or true where an expert was chosen, `(B, E)`.
        top_k: experts chosen for a sample.

    Raises:
        ValueError: the two have different shapes.
    """
    if probs.shape != expert_map.shape:
        raise ValueError(f"probs are {tuple(probs.shape)}, but expert_map is {tuple(expert_map.shape)}")
    batch, experts = probs.shape
    chosen = expert_map.float().sum(dim=0) / (batch * top_k)
    return experts * (chosen * probs.float().mean(dim=0)).sum()
