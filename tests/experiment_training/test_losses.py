"""Losses beside the squared error, against their formulas written out."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from experiment_training.components.loss.moe_gating_loss import router_z_loss, switch_load_balancing_loss
from experiment_training.components.loss.sinkhorn_knopp import SinkhornKnoppFactory


def entropic_cost(x: np.ndarray, y: np.ndarray, p: float, blur: float) -> float:
    """Return min ⟨π, C⟩ + ε KL(π | uniform) by log-domain Sinkhorn iterations until nothing moves."""
    cost, temperature = np.linalg.norm(x[:, None] - y[None], axis=-1) ** p / p, blur**p
    f, g = np.zeros(len(x)), np.zeros(len(y))
    for _ in range(1000):
        f = -temperature * logsumexp((g[None] - cost) / temperature - np.log(len(y)), axis=1)
        g = -temperature * logsumexp((f[:, None] - cost) / temperature - np.log(len(x)), axis=0)
    return float(f.mean() + g.mean())


def clouds(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 4, 2), (6, 4, 2), (6, 2, 3), (6, 2, 3))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("debias", [True, False])
def test_sinkhorn_is_that_of_log_domain_iterations(p: float, debias: bool) -> None:
    pytest.importorskip("geomloss")
    blur, weight = 1.0, 0.3
    loss = SinkhornKnoppFactory(p, weight, blur, debias, scaling=0.98).build()
    action, demonstrated, state, seen = clouds()
    x, y = (
        np.concatenate([a.flatten(1).numpy(), np.sqrt(weight) * s.flatten(1).numpy()], axis=1).astype(float)
        for a, s in ((action, state), (demonstrated, seen))
    )
    expected = entropic_cost(x, y, p, blur)
    if debias:
        expected -= (entropic_cost(x, x, p, blur) + entropic_cost(y, y, p, blur)) / 2
    assert loss(action, demonstrated, state, seen).item() == pytest.approx(expected, rel=2e-3)


def test_sinkhorn_pairs_each_prediction_with_its_nearest_demonstration() -> None:
    """With a small blur the cost is half the mean squared distance of the best matching."""
    pytest.importorskip("geomloss")
    loss = SinkhornKnoppFactory(blur=0.01, scaling=0.9).build()
    demonstrated = 10.0 * torch.eye(5)[:, None]
    predicted = (demonstrated + 0.5)[[3, 1, 4, 0, 2]].requires_grad_()
    state = torch.zeros(5, 1, 2)
    cost = loss(predicted, demonstrated, state, state)
    assert cost.item() == pytest.approx(0.5 * 5 * 0.5**2, rel=1e-2)
    cost.backward()
    torch.testing.assert_close(predicted.grad, torch.full_like(predicted, 0.5 / 5), rtol=1e-2, atol=1e-3)


def test_sinkhorn_keeps_its_digits_under_autocast() -> None:
    pytest.importorskip("geomloss")
    loss = SinkhornKnoppFactory(blur=0.05).build()
    plain = loss(*clouds())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss(*clouds())
    assert cast.dtype == torch.float32
    assert cast.item() == plain.item()


def test_sinkhorn_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = SinkhornKnoppFactory().build()
    monkeypatch.setitem(sys.modules, "geomloss", None)
    with pytest.raises(ValueError, match=r"needs the library geomloss; pip install 'trainer-il\[flow\]'"):
        loss(*clouds())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"p": 0.5}, "p must be at least 1"),
        ({"blur": 0.0}, "blur must be greater than 0"),
        ({"scaling": 1.0}, "scaling must lie between 0 and 1"),
        ({"lam_state": -1.0}, "lam_state must not be negative"),
        ({"p": 1.5, "backend": "online"}, "p must be 1 or 2 with backend online"),
    ],
)
def test_sinkhorn_numbers_out_of_range_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SinkhornKnoppFactory(**wrong)  # type: ignore[arg-type]


def test_router_z_loss_is_the_mean_square_of_log_sums() -> None:
    logits = np.random.default_rng(0).normal(size=(7, 4))
    expected = np.mean([np.log(sum(np.exp(row))) ** 2 for row in logits])
    assert router_z_loss(torch.from_numpy(logits)).item() == pytest.approx(expected, rel=1e-5)


def test_load_balancing_is_the_product_of_shares_and_probabilities() -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), size=9)
    chosen = np.argsort(-probs, axis=1)[:, :2]
    counts = [sum(e in row for row in chosen) / (9 * 2) for e in range(4)]
    expected = 4 * sum(f * p for f, p in zip(counts, probs.mean(0), strict=True))
    marks = torch.zeros(9, 4).scatter_(1, torch.from_numpy(chosen), 1.0)
    assert switch_load_balancing_loss(torch.from_numpy(probs), marks, 2).item() == pytest.approx(expected)
    even = torch.full((8, 4), 0.25)
    assert switch_load_balancing_loss(even, torch.ones(8, 4), 4).item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="expert_map"):
        switch_load_balancing_loss(even, torch.ones(8, 3), 1)
