"""Optimal transport between a batch's predicted and demonstrated actions, in the light of its states."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.registry import LOSS_BUILDER_REGISTRY

Backend = Literal["auto", "tensorized", "online", "multiscale"]


class KOTSinkhornLoss(nn.Module):
    """Entropic optimal transport, by geomloss.

    Cuturi 2013, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport"; Feydy et al. 2019,
    "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences".

    A batch of B samples is two clouds of B equally weighted points, x = [â, √λ·ŝ] and y = [a, √λ·s], each
    sample flattened. Transporting x to y costs c(x, y) = ‖x − y‖ᵖ / p, so with p = 2 half the squared
    distance, at temperature blurᵖ. Every rank has the clouds of its own batch.

    It is computed in float32, outside of autocast, and with `tensorized` from the differences of points: with
    some thousand dimensions the squares would cancel to fewer digits than `blur` asks for. A call waits for
    the device once, for the diameter of the clouds.

    Args:
        p: exponent of the cost, at least 1.
        lam_state: λ, weight of the states, at least 0.
        blur: scale below which points are not told apart, above 0.
        debias: subtract half of what transporting each cloud to itself costs, so that equal clouds cost 0.
        backend: `tensorized` makes the B × B costs, as does `auto`; `online` and `multiscale` need KeOps.
        scaling: ratio of successive scales on the way from the diameter of the clouds down to `blur`, in
            (0, 1); closer to 1 is more exact and slower.
    """

    def __init__(
        self, p: float, lam_state: float, blur: float, debias: bool, backend: Backend, scaling: float
    ) -> None:
        super().__init__()
        self.p = p
        self.lam_state = lam_state
        self.settings = {"p": p, "blur": blur, "debias": debias, "scaling": scaling}
        self.backend = "tensorized" if backend == "auto" else backend
        self.ot: nn.Module | None = None

    def forward(
        self, pred_action: Tensor, target_action: Tensor, state_pred: Tensor, state_target: Tensor
    ) -> Tensor:
        """Return the cost of the transport, a scalar.

        Args:
            pred_action: â `(B, …)`.
            target_action: a, of the same shape.
            state_pred: ŝ `(B, …)`.
            state_target: s, of the same shape.

        Raises:
            ValueError: the library is not there.
        """
        if self.ot is None:
            self.ot = self._solver()
        root = self.lam_state**0.5
        with torch.autocast(pred_action.device.type, enabled=False):
            x = torch.cat([pred_action.flatten(1).float(), root * state_pred.flatten(1).float()], dim=1)
            y = torch.cat([target_action.flatten(1).float(), root * state_target.flatten(1).float()], dim=1)
            cost: Tensor = self.ot(x, y)
        return cost

    def _solver(self) -> nn.Module:
        # Not where the loss is built: a robot builds its policy's loss and never calls it.
        try:
            from geomloss import SamplesLoss
        except ImportError:
            raise ValueError(
                "sinkhorn_knopp needs the library geomloss; pip install 'trainer-il[flow]'"
            ) from None
        cost = {"cost": self._cost} if self.backend == "tensorized" else {}
        solver: nn.Module = SamplesLoss("sinkhorn", backend=self.backend, **self.settings, **cost)
        return solver

    def _cost(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ‖x − y‖ᵖ / p for clouds `(1, N, D)` and `(1, M, D)`: `(1, N, M)`."""
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").pow(self.p) / self.p


@LOSS_BUILDER_REGISTRY.register("sinkhorn_knopp")
class SinkhornKnoppFactory:
    """Builds a `KOTSinkhornLoss`; its arguments are those of the loss.

    Args:
        p: exponent of the cost ‖x − y‖ᵖ / p.
        lam_state: weight of the states.
        blur: scale below which points are not told apart.
        debias: equal clouds cost 0.
        backend: of geomloss.
        scaling: ratio of successive scales.

    Raises:
        ValueError: a number is out of its range, or the backend's library is not there.
    """

    def __init__(
        self,
        p: float = 2,
        lam_state: float = 0.2,
        blur: float = 0.004,
        debias: bool = True,
        backend: Backend = "auto",
        scaling: float = 0.5,
    ) -> None:
        checks = {
            "p must be at least 1": p >= 1,
            "lam_state must not be negative": lam_state >= 0,
            "blur must be greater than 0": blur > 0,
            "scaling must lie between 0 and 1": 0 < scaling < 1,
            f"p must be 1 or 2 with backend {backend}": p in (1, 2) or backend in ("auto", "tensorized"),
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        if backend in ("online", "multiscale") and importlib.util.find_spec("pykeops") is None:
            raise ValueError(f"backend {backend} needs KeOps; pip install pykeops, or leave it at auto")
        self.settings = (p, lam_state, blur, debias, backend, scaling)

    def build(self) -> nn.Module:
        """Return the loss module."""
        return KOTSinkhornLoss(*self.settings)
