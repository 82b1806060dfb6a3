"""Demonstrations through cameras: what is recorded is what a policy sees, however many processes draw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.expert_policy import ExpertPolicy

from trainer.commands.record import record as record_command
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.cameras import open_camera
from trainer.evaluation.demonstrations import demonstrate_once
from trainer.evaluation.record import record
from trainer.evaluation.rollout import play
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.simulators.opengl import choose_backend
from trainer.offline_trainer import train

pytest.importorskip("metaworld")

ENV = "metaworld/push-v3"
NAMES = ("cam_head", "cam_left", "cam_right")
CAMERAS = [f"observation.images.{name}" for name in NAMES]


@pytest.fixture(scope="module", autouse=True)
def drawing() -> None:
    try:
        choose_backend()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded") / "push"
    record(ENV, 2, 0, root, cameras=NAMES, processes=1, progress=False)
    return root


def _hashes(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_processes_change_no_byte(root: Path, tmp_path: Path) -> None:
    summary = record(ENV, 2, 0, tmp_path / "push", cameras=NAMES, processes=2, progress=False)
    assert (summary.episodes, summary.kept) == (2, False)
    assert _hashes(tmp_path / "push") == _hashes(root)


def test_the_dataset_has_pictures_and_currents(root: Path) -> None:
    reader = LeRobotReader(root)
    own = {"observation.state", "observation.current", *CAMERAS, "action"}
    assert own <= set(reader.features)
    assert all(tuple(reader.features[name].shape) == (96, 96, 3) for name in CAMERAS)
    made = json.loads((root / "meta" / "info.json").read_text())["trainer"]
    assert made["cameras"] == {"names": list(NAMES), "size": 96}
    simulator = make_simulator(ENV)
    columns = reader.columns(["observation.state", "observation.current", "action"])
    cameras = {name: open_camera(reader, name, np.arange(2)) for name in CAMERAS}
    length = int(reader.episodes.columns["length"][0])
    observation = simulator.reset(made["start_seeds"][0])
    for row in range(length):
        for name, value in observation.items():
            np.testing.assert_array_equal(columns[name][row], value)
        # A finger's actuator is a spring of 400 N/m that pulls it to where it is told to be.
        data = simulator._env.data  # type: ignore[attr-defined]
        fingers = np.concatenate([data.joint("r_close").qpos, data.joint("l_close").qpos])
        force = 400 * (data.ctrl - fingers)
        np.testing.assert_allclose(observation["observation.current"], force, atol=1.0)
        for name, camera in cameras.items():
            recorded = camera.read(np.array([row]))[0].transpose(1, 2, 0).astype(int)
            picture = simulator.picture(name).astype(int)  # type: ignore[attr-defined]
            assert np.abs(recorded - picture).mean() < 4, f"{name} in frame {row}"
        observation = simulator.step(columns["action"][row]).observation


class WatchingExpert(ExpertPolicy):
    """Keeps what it sees at every step."""

    def reset(self, seeds=0) -> None:
        super().reset(seeds)
        self.seen: list[dict[str, np.ndarray]] = []

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        self.seen.append(dict(observation))
        return super().act(observation)


def test_a_policy_sees_the_very_pixels_that_are_recorded() -> None:
    simulators = [make_simulator(ENV) for _ in range(2)]
    wanted = {**simulators[0].features, **simulators[0].sensors, **simulators[0].cameras}  # type: ignore[attr-defined]
    recorded = demonstrate_once(simulators[0], 14, wanted)
    assert recorded is not None
    policy = WatchingExpert(ENV)
    play(policy, simulators[:1], [14], 25, cameras=CAMERAS)
    for step, seen in enumerate(policy.seen):
        for name in ("observation.state", "observation.current", *CAMERAS):
            np.testing.assert_array_equal(seen[name][0], recorded[name][step], err_msg=f"{name} at {step}")


def test_the_cameras_show_the_scene() -> None:
    """The goal of push is a green ball; every camera sees it, and each from another side."""
    simulator = make_simulator(ENV)
    simulator.reset(4)
    pictures = [simulator.picture(name).astype(int) for name in CAMERAS]  # type: ignore[attr-defined]
    for picture in pictures:
        red, green, blue = np.moveaxis(picture, -1, 0)
        assert ((green > 150) & (red < 100) & (blue < 100)).sum() >= 4, "the goal"
        assert ((red > 90) & (green < 50) & (blue < 60)).sum() >= 50, "the arm"
        assert ((blue > 180) & (green > 180) & (red < 100)).sum() >= 4, "a finger"
    assert all((pictures[i] != pictures[i - 1]).mean() > 0.5 for i in range(3))
    simulator.set_camera_size(CAMERAS[0], 32)  # type: ignore[attr-defined]
    small = simulator.picture(CAMERAS[0])  # type: ignore[attr-defined]
    assert small.shape == tuple(simulator.cameras[CAMERAS[0]]["shape"]) == (32, 32, 3)  # type: ignore[attr-defined]


def test_a_recording_is_kept_with_its_own_cameras_only(root: Path) -> None:
    assert record(ENV, 2, 0, root, cameras=NAMES, progress=False).kept
    for other in ({"cameras": NAMES[:1]}, {"cameras": NAMES, "camera_size": 64}, {}):
        with pytest.raises(ValueError, match="through cam_head, cam_left, cam_right of 96 px"):
            record(ENV, 2, 0, root, progress=False, **other)  # type: ignore[arg-type]


def test_the_command_knows_the_cameras(tmp_path: Path) -> None:
    common = ["--env", ENV, "--episodes", "1", "--out", str(tmp_path / "set")]
    for change, message in (
        (["--camera", "cam_haed"], "has no camera 'cam_haed'; did you mean 'cam_head'?"),
        (["--camera", "top"], "has no camera 'top'; it has cam_head, cam_left, cam_right"),
        (["--camera-size", "64"], "--camera-size has no effect without --camera"),
    ):
        bad = CliRunner().invoke(record_command, common + change)
        assert bad.exit_code == 2
        assert message in bad.stderr
        assert bad.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    arguments = [*common, "--camera", "cam_left", "--camera-size", "64", "--processes", "1"]
    good = CliRunner().invoke(record_command, arguments)
    assert good.exit_code == 0, good.output
    features = LeRobotReader(tmp_path / "set").features
    assert [n for n in features if "images" in n] == ["observation.images.cam_left"]
    assert tuple(features["observation.images.cam_left"].shape) == (64, 64, 3)


def test_where_nothing_can_be_drawn_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_to_draw_on(*_: object) -> None:
        raise RuntimeError("there is no screen")

    monkeypatch.setattr(type(make_simulator(ENV)), "picture", nothing_to_draw_on)
    with pytest.raises(ValueError, match=r"the recording sees through .*cam_head, but there is no screen"):
        record(ENV, 2, 0, tmp_path / "set", cameras=["cam_head"], processes=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_example_trains_from_a_recording_and_is_evaluated(root: Path, tmp_path: Path) -> None:
    run = train(
        "examples/configs/metaworld_push_cameras.yaml",
        [
            f"data.datamodule.params.root={root}",
            f"train.save_dir={tmp_path / 'run'}",
            "train.max_steps=2",
            "model.component_optims.observation_encoder.params.warmup_steps=1",
            "model.component_optims.velocity_decoder.params.warmup_steps=1",
            "train.loggers=[]",
            "data.batch_size=8",
            "train.evaluation.episodes=1",
            "train.evaluation.videos=0",
        ],
    )
    lines = (run / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line).get("total") for line in lines]
    assert len([loss for loss in losses if loss is not None]) == 2
    assert json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])["env"] == ENV
