"""The simulators as datasets and policies see them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.cameras import open_camera
from trainer.evaluation.simulators import make_simulator
from trainer.templates import Simulator, SimulatorStep

pytest.importorskip("metaworld")
pytest.importorskip("gym_pusht")


def _trajectory(simulator, seed: int, steps: int) -> list[SimulatorStep]:
    observation = simulator.reset(seed)
    trace = [SimulatorStep(observation, 0.0, False, 0.0, False)]
    for _ in range(steps):
        trace.append(simulator.step(simulator.expert_action(trace[-1].observation)))
    return trace


def _equal(a: list[SimulatorStep], b: list[SimulatorStep]) -> bool:
    return all(
        all(np.array_equal(x.observation[name], y.observation[name]) for name in x.observation)
        and x[1:] == y[1:]
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("task", ["pick-place-v3", "push-v3", "door-open-v3", "stick-pull-v3", "assembly-v3"])
def test_a_used_metaworld_simulator_starts_as_a_new_one_does(task: str) -> None:
    used = make_simulator(f"metaworld/{task}")
    _trajectory(used, 5, 90)
    assert _equal(_trajectory(used, 11, 60), _trajectory(make_simulator(f"metaworld/{task}"), 11, 60))


def test_every_seed_has_its_own_metaworld_start() -> None:
    simulator = make_simulator("metaworld/pick-place-v3")
    starts = {simulator.reset(seed)["observation.state"].tobytes() for seed in range(60)}
    assert len(starts) == 60


def test_metaworld_meets_its_description() -> None:
    simulator = make_simulator("metaworld/push-v3")
    assert isinstance(simulator, Simulator)
    assert (simulator.task, simulator.fps, simulator.max_steps) == ("push-v3", 80, 500)
    observation = simulator.reset(0)
    _matches_features(simulator, observation)
    step = simulator.step(np.array([9.0, 0.0, 0.0, 0.0], np.float32))
    again = make_simulator("metaworld/push-v3")
    again.reset(0)
    cut = again.step(np.array([1.0, 0.0, 0.0, 0.0], np.float32))
    np.testing.assert_array_equal(step.observation["observation.state"], cut.observation["observation.state"])


def test_metaworld_expert_succeeds_and_the_score_follows() -> None:
    trace = _trajectory(make_simulator("metaworld/push-v3"), 3, 90)
    assert any(step.success for step in trace)
    assert all(step.score == float(step.success) for step in trace)


def _matches_features(simulator: Simulator, observation: dict[str, np.ndarray]) -> None:
    features = simulator.features | getattr(simulator, "sensors", {})
    assert set(observation) | {"action"} == set(features)
    for name, value in observation.items():
        feature = features[name]
        assert value.dtype == feature["dtype"]
        assert value.shape == tuple(feature["shape"])
        assert len(feature["names"]) == feature["shape"][0]


_PUSHT = Path(__file__).parents[3] / "shared" / "data" / "pusht"


@pytest.mark.skipif(not _PUSHT.is_dir(), reason="the Push-T demonstrations are not on this machine")
@pytest.mark.parametrize("episode", [0, 1, 2])
def test_pusht_replays_a_demonstration(episode: int) -> None:
    reader = LeRobotReader(_PUSHT)
    keys = ["observation.state", "observation.environment_state", "action"]
    lengths = reader.episodes.columns["length"]
    rows = slice(int(lengths[:episode].sum()), int(lengths[: episode + 1].sum()))
    agent, block, actions = (reader.columns(keys)[key][rows] for key in keys)
    simulator = make_simulator("pusht")
    observation = simulator.set_state(agent[0], block[0])  # type: ignore[attr-defined]
    for t, action in enumerate(actions):
        np.testing.assert_allclose(observation["observation.state"], agent[t], atol=1e-3)
        np.testing.assert_allclose(observation["observation.environment_state"], block[t], atol=1e-3)
        observation = simulator.step(action).observation


@pytest.mark.skipif(not _PUSHT.is_dir(), reason="the Push-T demonstrations are not on this machine")
@pytest.mark.parametrize("row", [0, 1000, 20000])
def test_pusht_pictures_are_those_of_the_demonstrations(row: int) -> None:
    reader = LeRobotReader(_PUSHT)
    camera = open_camera(reader, "observation.image", np.arange(len(reader.episodes)))
    recorded = camera.read(np.array([row]))[0].transpose(1, 2, 0).astype(int)
    keys = ["observation.state", "observation.environment_state"]
    agent, block = (reader.columns(keys)[key][row] for key in keys)
    simulator = make_simulator("pusht")
    simulator.set_state(agent, block)  # type: ignore[attr-defined]
    picture = simulator.picture("observation.image").astype(int)  # type: ignore[attr-defined]
    # The recording is compressed, and its positions are rounded: edges differ, nothing else does.
    assert np.abs(picture - recorded).mean() < 1.5
    assert (np.abs(picture - recorded).max(axis=2) > 40).mean() < 0.01


def test_pusht_meets_its_description() -> None:
    simulator = make_simulator("pusht")
    assert isinstance(simulator, Simulator)
    assert (simulator.fps, simulator.max_steps) == (10, 300)
    first = simulator.reset(4)
    _matches_features(simulator, first)
    simulator.step(np.array([100.0, 100.0]))
    for name, value in simulator.reset(4).items():
        np.testing.assert_array_equal(value, first[name])


def test_pusht_scores_coverage() -> None:
    simulator = make_simulator("pusht")
    simulator.reset(0)
    # At the goal pose, apart from the sliver by which the reset of the body's centre differs.
    simulator.set_state(np.array([50.0, 50.0]), np.array([256.0, 256.0, np.pi / 4]))  # type: ignore[attr-defined]
    step = simulator.step(np.array([50.0, 50.0]))
    assert (step.success, step.done, step.score) == (True, True, 1.0)
    simulator.set_state(np.array([50.0, 50.0]), np.array([400.0, 400.0, 0.0]))  # type: ignore[attr-defined]
    step = simulator.step(np.array([50.0, 50.0]))
    assert (step.success, step.done) == (False, False)
    assert step.score < 0.1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metaworld/pick-plaze-v3", "did you mean 'pick-place-v3'"),
        ("metaworld", "Meta-World has no task ''"),
        ("metawurld/push-v3", "did you mean 'metaworld'"),
        ("pusht/left", "pusht instead of pusht/left"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_simulator(name)


def test_a_simulator_that_is_not_installed_names_its_extra() -> None:
    code = (
        "import sys; sys.modules['metaworld'] = None\n"
        "from trainer.evaluation.simulators import make_simulator\n"
        "try: make_simulator('metaworld/push-v3')\n"
        "except ValueError as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'trainer-il[metaworld]'" in answer


def test_pusht_draws_without_a_screen() -> None:
    simulator = make_simulator("pusht")
    simulator.reset(0)
    picture = simulator.render()
    assert picture.shape == (256, 256, 3)
    assert picture.dtype == np.uint8
    green = (picture[..., 1] > 200) & (picture[..., 0] < 200)  # the goal, in the middle of the field
    assert green[64:192, 64:192].sum() > 0.8 * green.sum() > 500


def test_metaworld_draws_without_a_screen() -> None:
    from trainer.evaluation.simulators.opengl import choose_backend

    try:
        choose_backend()
    except RuntimeError as error:
        pytest.skip(str(error))
    pictures = []
    for task in ("pick-place-v3", "door-open-v3", "pick-place-v3"):  # renderers of two tasks side by side
        simulator = make_simulator(f"metaworld/{task}")
        simulator.reset(0)
        pictures.append(simulator.render())
    assert pictures[0].shape == (256, 256, 3)
    assert pictures[0].std() > 20
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert (pictures[0] != pictures[1]).mean() > 0.05


def test_a_machine_without_opengl_gets_one_sentence() -> None:
    """PyOpenGL that finds no library stands for a machine that has none."""
    code = (
        "from trainer.evaluation.simulators import make_simulator, opengl\n"
        "opengl._PROBE = 'raise SystemExit(3)'\n"
        "simulator = make_simulator('metaworld/push-v3')\n"
        "simulator.reset(0)\n"
        "try: simulator.render()\n"
        "except RuntimeError as error: print(error)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "apt-get install libegl1 libgl1, or libosmesa6" in run.stdout
    asked = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"MUJOCO_GL": "disable"},
    )
    assert "switched off by MUJOCO_GL=disable" in asked.stdout
