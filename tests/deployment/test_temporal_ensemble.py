"""Temporal ensembling: overlapping chunks, averaged, for any policy, alone and in lockstep."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.data.normalization import Normalizer
from trainer.deployment.deployed_policy import DeployedPolicy
from trainer.deployment.robot_policy import load_policy
from trainer.deployment.temporal_ensemble import TemporalEnsemble
from trainer.offline_trainer import train
from trainer.templates import Callback
from trainer.utils.errors import UsageError

HORIZON = 5


def averaged(chunks, step, m):
    """Return the action at `step` of all chunks so far, `chunks[k]` `(H, A)` being that of step k."""
    said = [chunks[k][step - k] for k in range(step + 1) if step - k < HORIZON]
    weights = np.exp(-m * np.arange(len(said)))
    return (weights[:, None] * np.stack(said)).sum(0) / weights.sum()


class Network:
    """Predicts chunks that tell its calls and robots apart: the state plus noise of a fixed seed."""

    n_action_steps = 3

    def __init__(self):
        self.said = []

    def predict_action(self, observation, context):
        state = observation["observation.state"][:, -1]
        chunk = state[:, None] + context.random.normal((len(state), 1 + HORIZON, 2))
        self.said.append(chunk.numpy())
        return chunk


def robot(m, stride=1, **more):
    # Like Diffusion Policy's, this chunk begins one step before the present action.
    windows = {"observation.state": [0], "action": [stride * (i - 1) for i in range(1 + HORIZON)]}
    return DeployedPolicy(
        Network(),
        Normalizer({}),
        {"windows": windows},
        torch.device("cpu"),
        temporal_ensembling=m,
        **more,
    )


@pytest.mark.parametrize("m", [0.01, 0.0, 1.0, -0.5])
def test_an_action_is_the_average_of_all_chunks_that_hold_it(m):
    policy = robot(m)
    rng = np.random.default_rng(0)
    actions = [policy.act({"observation.state": rng.normal(size=2)}) for _ in range(3 * HORIZON)]
    chunks = [chunk[0, 1:] for chunk in policy.policy.said]
    assert len(chunks) == 3 * HORIZON
    expected = [averaged(chunks, step, m) for step in range(3 * HORIZON)]
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)


def test_the_oldest_prediction_weighs_most():
    ensemble = TemporalEnsemble(m=1.0)
    ensemble.next(np.array([[[0.0], [1.0]]]))
    action = ensemble.next(np.array([[[0.0], [9.0]]]))
    np.testing.assert_allclose(action, [[1.0 / (1.0 + np.exp(-1.0))]])


def test_robots_in_lockstep_average_as_each_would_alone():
    frames = np.random.default_rng(1).normal(size=(9, 3, 2))
    alone = []
    for seed in range(3):
        policy = robot(0.3)
        policy.reset(seed)
        alone.append([policy.act({"observation.state": frame[seed]}) for frame in frames])
    policy = robot(0.3)
    policy.reset([0, 1, 2])
    for frame in frames:
        policy.act({"observation.state": frame})
    policy.reset([0, 1, 2])  # what was before is forgotten
    rows = [0, 1, 2]
    for step, frame in enumerate(frames):
        if step == 4:
            policy.keep([0, 2])
            rows = [0, 2]
        actions = policy.act({"observation.state": frame[rows]})
        np.testing.assert_allclose(actions, [alone[r][step] for r in rows], rtol=1e-5, atol=1e-6)


def test_at_a_lower_rate_an_action_is_held():
    policy = robot(0.1, stride=2)
    actions = [policy.act({"observation.state": np.zeros(2)}) for _ in range(8)]
    chunks = [chunk[0, 1:] for chunk in policy.policy.said]
    assert len(chunks) == 4
    expected = [averaged(chunks, step // 2, 0.1) for step in range(8)]
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)


def test_a_number_of_executed_actions_has_no_effect_beside_it():
    with pytest.raises(UsageError, match="n_action_steps 4 has no effect with temporal ensembling"):
        robot(0.01, n_action_steps=4)
    assert robot(None, n_action_steps=4).n_action_steps == 4
    with pytest.raises(UsageError, match="n_action_steps is 0, but a chunk holds 1 to"):
        robot(None, n_action_steps=0)
    with pytest.raises(UsageError, match="m of temporal ensembling is nan, but it must be a finite number"):
        robot(float("nan"))


class Deploys(Callback):
    """Notes how the policy would be rolled out while it trains."""

    def after_epoch(self, experiment):
        self.m = experiment.deployed_policy().temporal_ensembling


def test_a_configuration_chooses_it_and_a_caller_overrules(tiny_experiment):
    deploys = Deploys()
    run = train(tiny_experiment(), ["train.temporal_ensembling={enabled: true, m: 0.2}"], callbacks=[deploys])
    assert deploys.m == 0.2
    policy = load_policy(run, "cpu")
    assert policy.temporal_ensembling == 0.2
    assert policy.n_action_steps == 1
    assert "temporal ensembling, m = 0.2" in str(policy)
    assert load_policy(run, "cpu", temporal_ensembling=0.5).temporal_ensembling == 0.5
    assert load_policy(run, "cpu", temporal_ensembling=True).temporal_ensembling == 0.2
    assert load_policy(run, "cpu", n_action_steps=3).temporal_ensembling is None
    plain = load_policy(run, "cpu", temporal_ensembling=False)
    assert plain.temporal_ensembling is None
    assert plain.n_action_steps == 2
    frames = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)
    policy.reset(3)
    plain.reset(3)
    ours = [policy.act({"observation.state": f}) for f in frames]
    theirs = [plain.act({"observation.state": f}) for f in frames]
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert not np.allclose(ours[1:], theirs[1:])


def test_the_same_run_without_it_is_deployed_plainly(tiny_experiment):
    run = train(tiny_experiment())
    assert load_policy(run, "cpu").temporal_ensembling is None
    assert load_policy(run, "cpu", temporal_ensembling=True).temporal_ensembling == 0.01
