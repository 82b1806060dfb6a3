"""A robot of one's own: its loop acts with the newest policy, a person takes over, episodes come in."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.online_robots import GAINS, Drift, Publishes, Remembers
from helpers.tiny_experiment import STATE

from examples.online_robot import play_episode
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train
from trainer.online.episode import AUTO, HUMAN, EpisodeError
from trainer.online.robot import OnlineRobot
from trainer.online.state_manager import PolicyStateManager
from trainer.utils.errors import UsageError

PERSON = np.array([9.0, -9.0])


def drive(robot, simulator, seed, by_hand=()):
    """Drive a simulator as if it were the robot; return the executed actions and the last observation."""
    observation, taken = simulator.reset(seed), []
    for step in range(simulator.max_steps):
        taken.append(robot.act(observation, PERSON if step in by_hand else None))
        observation = simulator.step(taken[-1]).observation
    return np.stack(taken)


def test_a_robot_of_ones_own(tiny_experiment, tmp_path):
    manager, replay = PolicyStateManager(tmp_path / "online"), Remembers()
    publishes = Publishes(manager)
    run = train(tiny_experiment(), callbacks=[publishes])
    robot = OnlineRobot("arm", device="cpu", manager=manager, replay=replay)
    assert robot.fps == 10
    assert list(robot.observations) == ["observation.state"]
    taken = drive(robot, Drift(), 5, by_hand=(4, 5))
    assert robot.end_episode(success=True) == 0
    (episode,) = replay.episodes
    np.testing.assert_array_equal(episode.columns["action"], taken)
    np.testing.assert_array_equal(taken[[4, 5]], [PERSON, PERSON])
    over = np.isin(np.arange(12), [4, 5])
    np.testing.assert_array_equal(episode.control_mode, np.where(over, HUMAN, AUTO))
    np.testing.assert_array_equal(episode.labelled, over)
    assert (episode.task, episode.success, episode.source, episode.start_seed) == (
        "follow",
        True,
        "arm",
        None,
    )
    policy = load_policy(run, "cpu")
    alone = np.stack([policy.act({"observation.state": s}) for s in episode.columns["observation.state"]])
    np.testing.assert_array_equal(taken[~over], alone[~over])

    manager.update_weights(publishes.sent[-1], step=30)
    observation = Drift().reset(1)
    robot.act(observation)
    assert robot.version == 2
    manager.update_weights(publishes.sent[-1], step=40)
    robot.act(observation)
    assert robot.version == 2  # within an episode they stay
    with pytest.raises(EpisodeError, match="2 steps, fewer than 4"):
        robot.end_episode(success=False)
    robot.begin_episode()
    assert robot.version == 3
    robot.act(observation)
    with pytest.raises(ValueError, match=r"needs observation\.state.*it was given nothing"):
        robot.act({})
    robot.drop_episode()
    assert robot.end_episode(success=False) is None
    drive(robot, Drift(), 6)
    robot.end_episode(success=False, task="push")
    assert replay.episodes[-1].task == "push"
    assert len(set(replay.keys)) == 2
    manager.close()


def test_the_example_plays_with_somebody_beside_the_robot(tiny_experiment, tmp_path):
    manager, replay = PolicyStateManager(tmp_path / "online"), Remembers()
    train(tiny_experiment(), callbacks=[Publishes(manager)])
    robot = OnlineRobot("arm", device="cpu", manager=manager, replay=replay)
    assert play_episode(robot, Drift("by:9"), 3, patience=4)
    assert not play_episode(robot, Drift(), 3, patience=None)
    helped, alone = replay.episodes
    np.testing.assert_array_equal(helped.control_mode, 4 * [AUTO] + 5 * [HUMAN])
    np.testing.assert_allclose(
        helped.columns["action"][4:], helped.columns["observation.state"][4:] @ GAINS, rtol=1e-5
    )
    assert (len(alone), alone.labels, alone.success) == (12, 0, False)
    manager.close()


def test_a_run_that_publishes_nothing_is_waited_for_so_long(tmp_path):
    manager = PolicyStateManager(tmp_path)
    with pytest.raises(UsageError, match=r"no weights in 0\.1 s; robots collect once"):
        OnlineRobot("arm", manager=manager, replay=Remembers(), patience=0.1)
    manager.close()


def test_without_a_cluster_the_address_is_asked_for():
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="give OnlineRobot the address"):
        OnlineRobot("arm")
    with pytest.raises(UsageError, match=r"there is no Ray cluster at '127\.0\.0\.1:9'"):
        OnlineRobot("arm", "127.0.0.1:9")


def test_a_shape_that_the_dataset_cannot_hold_is_refused(tiny_experiment, tmp_path):
    manager = PolicyStateManager(tmp_path / "online")
    train(tiny_experiment(), callbacks=[Publishes(manager)])
    robot = OnlineRobot("arm", device="cpu", manager=manager, replay=Remembers())
    with pytest.raises(ValueError, match=r"has shape \(3,\); the policy needs \(5,\)"):
        robot.act({"observation.state": np.zeros(3)})
    with pytest.raises(ValueError, match=r"'action' has shape \(3,\)"):
        robot.act({"observation.state": np.zeros(STATE)}, np.zeros(3))
    manager.close()
