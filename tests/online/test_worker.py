"""Rollout workers: who acts and what is learnt in each mode, labels, weights, and experts that fail."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from helpers.online_robots import GAINS, Publishes, Remembers
from helpers.policies import CAMERA, write_films
from helpers.tiny_experiment import HISTORY, decoder_yaml, encoder_yaml, experiment

from trainer.config.online import OnlineConfig
from trainer.deployment.robot_policy import load_policy
from trainer.evaluation.starts import start_seeds
from trainer.offline_trainer import train
from trainer.online.episode import AUTO, EXPERT, HUMAN
from trainer.online.state_manager import PolicyStateManager
from trainer.online.worker import RolloutWorker, WorkerSettings
from trainer.registry import EXPERT_REGISTRY
from trainer.utils.errors import UsageError

STATE = "observation.state"


@pytest.fixture(scope="module")
def published(tmp_path_factory, tiny_dataset):
    """Return a manager with a trained policy, and its run folder."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "models").mkdir()
    (folder / "models/observation_encoder.yaml").write_text(yaml.safe_dump(encoder_yaml()))
    (folder / "models/velocity_decoder.yaml").write_text(yaml.safe_dump(decoder_yaml()))
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment(folder / "run", tiny_dataset)))
    manager = PolicyStateManager(folder / "online")
    publishes = Publishes(manager)
    run = train(path, callbacks=[publishes])
    yield manager, run, publishes.sent[-1]
    manager.close()


def worker(published, replay, mode="policy", expert=None, env="drifting/reach", budget=None, **workers):
    online = OnlineConfig.model_validate(
        {
            "mode": mode,
            "expert": expert,
            "expert_budget": budget,
            "workers": {"envs": 2, "seed": 4, **workers},
        }
    )
    return RolloutWorker(WorkerSettings(online, env), published[0], replay)


def as_deployed(published, episode, n_action_steps=None):
    """Return what the checkpoint's policy does upon the observations of an episode."""
    policy = load_policy(published[1], "cpu", n_action_steps)
    policy.reset(episode.start_seed)
    return np.stack([policy.act({STATE: state}) for state in episode.columns[STATE]])


def test_the_policy_alone(published):
    replay = Remembers()
    robot = worker(published, replay)
    robot.collect_round()
    assert [e.start_seed for e in replay.episodes] == start_seeds(4, 2, "collection")
    for episode in replay.episodes:
        assert len(episode) == 12
        assert not episode.success
        assert set(episode.columns) == {STATE, "action"}
        np.testing.assert_allclose(episode.columns["action"], as_deployed(published, episode), atol=1e-5)
        assert (episode.control_mode == AUTO).all()
        assert not episode.labelled.any()
        assert (episode.policy_version == 1).all()
        assert episode.task == "follow"  # that of the demonstrations
        assert episode.source == "worker_0"
    report = robot.report()
    assert [(e.mode, e.steps, e.labels, e.taken_over, e.lag) for e in report.episodes] == 2 * [
        ("policy", 12, 0, 0, 0)
    ]
    assert report.version == 1
    assert len(report.delays) == 1
    assert not robot.report().episodes


def test_in_dagger_the_policy_acts_and_the_expert_is_learnt(published):
    replay = Remembers()
    robot = worker(published, replay, "dagger", {"type": "scripted"})
    robot.collect_round()
    executed = [np.stack(simulator.taken) for simulator in robot._simulators]
    for episode, taken in zip(replay.episodes, executed, strict=True):
        np.testing.assert_allclose(episode.columns["action"], episode.columns[STATE] @ GAINS, rtol=1e-5)
        np.testing.assert_allclose(taken, as_deployed(published, episode), atol=1e-5)
        assert not np.allclose(taken, episode.columns["action"])
        assert episode.labelled.all()
        assert (episode.control_mode == AUTO).all()


def test_in_hg_dagger_the_expert_acts_while_it_takes_over(published):
    replay = Remembers()
    expert = {"type": "by_the_clock", "params": {"start": 3, "end": 7}}
    robot = worker(published, replay, "hg_dagger", expert)
    robot.collect_round()
    executed = [np.stack(simulator.taken) for simulator in robot._simulators]
    for episode, taken in zip(replay.episodes, executed, strict=True):
        over = np.isin(np.arange(12), range(3, 7))
        np.testing.assert_array_equal(episode.control_mode, np.where(over, EXPERT, AUTO))
        np.testing.assert_array_equal(episode.labelled, over)
        np.testing.assert_array_equal(episode.columns["action"], taken)
        np.testing.assert_allclose(taken[over], (episode.columns[STATE] @ GAINS)[over], rtol=1e-5)
        alone = as_deployed(published, episode)  # the policy saw what was happening meanwhile
        np.testing.assert_allclose(taken[~over], alone[~over], atol=1e-5)
    assert [e.taken_over for e in robot.report().episodes] == [4, 4]


def test_a_person_is_told_apart(published, monkeypatch):
    monkeypatch.setattr(EXPERT_REGISTRY.get("by_the_clock"), "human", True, raising=False)
    expert = {"type": "by_the_clock", "params": {"start": 3, "end": 7}}
    replay = Remembers()
    worker(published, replay, "hg_dagger", expert, envs=1).collect_round()
    assert (replay.episodes[0].control_mode[3:7] == HUMAN).all()
    with pytest.raises(UsageError, match="is a person, who can look after one robot at a time"):
        worker(published, replay, "hg_dagger", expert)


@pytest.mark.parametrize("mode", ["dagger", "hg_dagger"])
def test_the_budget_of_labels_is_used_and_never_exceeded(published, mode):
    replay = Remembers(budget=31)
    robot = worker(published, replay, mode, {"type": "by_the_clock"}, budget=31)
    for _ in range(3):
        robot.collect_round()
    assert replay.labels == 31
    assert len(replay.episodes) == 6
    assert not any(episode.labelled.any() for episode in replay.episodes[4:])
    assert sum(replay.grants.values()) == 0


def test_labels_of_dropped_episodes_count_too(published):
    replay = Remembers(budget=40)
    expert = {"type": "by_the_clock", "params": {"fails": 9, "every_start": False}}
    robot = worker(published, replay, "dagger", expert, budget=40)
    given = []
    for simulator in robot._simulators:
        honest = simulator.expert_action
        simulator.expert_action = lambda seen, ask=honest: given.append(1) or ask(seen)
    for _ in range(6):
        robot.collect_round()
    assert robot.report().dropped
    assert len(given) == 40
    assert replay.labels < 40


def test_an_expert_that_raises_costs_its_episode_only(published):
    replay = Remembers()
    expert = {"type": "by_the_clock", "params": {"fails": 5, "every_start": False}}
    robot = worker(published, replay, "dagger", expert, envs=1)
    seeds = start_seeds(4, 6, "collection")
    failing = [seed for seed in seeds if seed % 2]
    assert 0 < len(failing) < 6
    for _ in seeds:
        robot.collect_round()
    assert [e.start_seed for e in replay.episodes] == [seed for seed in seeds if seed % 2 == 0]
    dropped = robot.report().dropped
    assert len(dropped) == len(failing)
    assert dropped[0] == (
        f"the expert 'by_the_clock' failed at step 5 of the episode with start seed {failing[0]} "
        "(RuntimeError: the cable came loose); the episode is dropped"
    )


def test_an_expert_that_always_raises_ends_the_run(published):
    replay = Remembers()
    expert = {"type": "by_the_clock", "params": {"fails": 0}}
    robot = worker(published, replay, "hg_dagger", expert, envs=1)
    robot.collect_round()
    robot.collect_round()
    with pytest.raises(UsageError, match=r"the cable came loose.* in the 2 episodes before it") as ended:
        robot.collect_round()
    assert "\n" not in str(ended.value)
    assert not replay.episodes


def test_what_is_no_action_is_no_label(published, monkeypatch):
    replay = Remembers()
    robot = worker(published, replay, "dagger", {"type": "by_the_clock"}, envs=1)
    robot._simulators[0].expert_action = lambda seen: np.array([np.nan, 0.0])
    robot.collect_round()
    robot._simulators[0].expert_action = lambda seen: np.zeros(3)
    robot.collect_round()
    nan, shape = robot.report().dropped
    assert "it gave numbers of shape (2,), not all finite and not (2,) finite numbers" in nan
    assert "it gave numbers of shape (3,) and not (2,) finite numbers" in shape
    assert not replay.episodes


def test_episodes_that_cannot_be_stored_are_told_of_and_end_the_run(published):
    replay = Remembers(longest=50)
    robot = worker(published, replay, env="drifting/by:3", envs=1)
    robot.collect_round()
    robot.collect_round()
    assert robot.report().dropped == 2 * ["the episode has 3 steps, fewer than 50"]
    with pytest.raises(UsageError, match="fewer than 50"):
        robot.collect_round()


def test_an_episode_ends_at_success(published):
    replay = Remembers()
    worker(published, replay, env="drifting/by:5").collect_round()
    assert [(len(e), e.success) for e in replay.episodes] == [(5, True), (5, True)]


def test_pictures_are_recorded_as_the_dataset_has_them(tiny_experiment, tmp_path):
    encoder = encoder_yaml()
    encoder["model"]["graph"]["modules"]["embedding"]["dims"][0] = 2 * HISTORY

    def change(config):
        config["model"]["component_config_paths"]["observation_encoder"] = "pose.yaml"
        params = config["data"]["datamodule"]["params"]
        params |= {"root": str(write_films(tmp_path / "films")), "features": [STATE, CAMERA]}
        config["train"]["epoch"] = 1

    (tmp_path / "pose.yaml").write_text(yaml.safe_dump(encoder))
    manager, replay = PolicyStateManager(tmp_path / "online"), Remembers()
    train(tiny_experiment(change), callbacks=[Publishes(manager)])
    worker((manager,), replay, env="painter").collect_round()
    for episode in replay.episodes:
        pictures = episode.columns[CAMERA]
        assert (pictures.shape, pictures.dtype) == ((6, 3, 96, 96), np.uint8)
        np.testing.assert_array_equal(pictures[:, 0, 50, 50], range(6))
        np.testing.assert_array_equal(pictures[:, 1, 9, 0], 200)
        np.testing.assert_array_equal(episode.columns[STATE][:, 0], range(6))
        assert episode.task == "go"
    manager.close()


def test_newer_weights_come_between_episodes_or_at_chunks(published, tmp_path):
    first = published[2]
    second = {c: {n: v + np.float32(0.5) for n, v in state.items()} for c, state in first.items()}
    manager = PolicyStateManager(tmp_path)
    manager.update_weights(first, step=1, description=published[0].description())

    class Moves(Remembers):
        """Stands for a learner that publishes while episodes are played."""

    for refresh, expected in (("episode", [1] * 12), (4, [1] * 4 + [2] * 8)):
        replay = Moves()
        robot = worker((manager, *published[1:]), replay, "dagger", {"type": "by_the_clock"}, refresh=refresh)
        version = manager.version()
        asked = []

        def publish_at_step_3(seen, asked=asked, robot=robot):
            asked.append(1)
            if len(asked) == 3:
                manager.update_weights(second, step=2)
            return seen[STATE] @ GAINS

        robot._simulators[0].expert_action = publish_at_step_3
        robot.collect_round()
        versions = replay.episodes[0].policy_version
        np.testing.assert_array_equal(versions - version + 1, expected)
        lags = [e.lag for e in robot.report().episodes]
        assert lags == ([1, 1] if refresh == "episode" else [0, 0])
    manager.close()


def test_modes_go_with_the_share_of_the_run(published, tmp_path):
    replay = Remembers()
    online = {
        "mode": ["dagger", "hg_dagger"],
        "switch_at": [0.5],
        "expert": {"type": "by_the_clock"},
        "workers": {"envs": 1},
    }
    manager = PolicyStateManager(tmp_path)
    manager.update_weights(published[2], step=10, description=published[0].description())
    settings = WorkerSettings(OnlineConfig.model_validate(online), "drifting/reach")
    robot = RolloutWorker(settings, manager, replay)
    assert robot._reason_to_wait() is None
    robot.collect_round()
    manager.update_weights(published[2], step=11)  # of 22
    robot.collect_round()
    assert [e.mode for e in robot.report().episodes] == ["dagger", "hg_dagger"]
    manager.close()


def test_it_waits_for_weights_and_while_there_is_a_reason(tmp_path, published):
    manager = PolicyStateManager(tmp_path)
    replay = Remembers()
    robot = worker((manager, *published[1:]), replay)
    assert robot._reason_to_wait() == "no weights have been published yet"
    manager.update_weights(published[2], step=1, description=published[0].description())
    replay.reason = "the learner is behind"
    assert robot._reason_to_wait() == "the learner is behind"
    manager.close()


def test_a_stopped_worker_returns_and_keeps_nothing_in_flight(published):
    replay = Remembers()
    robot = worker(published, replay, "dagger", {"type": "by_the_clock"})
    asked = []

    def stop_in_the_second_round(seen):
        asked.append(1)
        if len(asked) == 18:
            robot.stop()
        return seen[STATE] @ GAINS

    robot._simulators[0].expert_action = stop_in_the_second_round
    robot.run()
    assert len(replay.episodes) == 2
    assert len(set(replay.keys)) == 2


def test_a_worker_that_is_started_again_goes_on_to_other_starts(published):
    replay = Remembers()
    replay.episodes = [None] * 3  # of before
    robot = worker(published, replay, "dagger", {"type": "by_the_clock"}, envs=1)
    robot._simulators[0].expert_action = lambda seen: robot.stop() or seen[STATE] @ GAINS
    robot._max_steps = 4
    played = []
    reset = robot._simulators[0].reset
    robot._simulators[0].reset = lambda seed: played.append(seed) or reset(seed)
    robot.run()
    assert played == start_seeds(4, 4, "collection")[3:]


@pytest.mark.parametrize(
    ("env", "expert", "text"),
    [
        ("drftng", None, "there is no simulator 'drftng'"),
        ("drifting", {"type": "scriptd"}, "no expert is registered as 'scriptd'"),
        ("drifting", {"type": "scripted", "params": {"patient": 3}}, "'scripted' cannot be made.*patient"),
    ],
)
def test_what_is_not_there_is_said_at_once(published, env, expert, text):
    with pytest.raises(UsageError, match=text):
        worker(published, Remembers(), "dagger" if expert else "policy", expert, env=env)


def test_another_robot_than_that_of_the_demonstrations_is_refused(published):
    robot = worker(published, Remembers())
    for simulator in robot._simulators:
        simulator.features = {**simulator.features, "action": {"dtype": "float32", "shape": (3,)}}
    with pytest.raises(UsageError, match=r"'action' of shape \(2,\); in drifting/reach it has shape \(3,\)"):
        robot.collect_round()
