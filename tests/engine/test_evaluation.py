"""Evaluating while training, and afterwards: shared among ranks, refused where it cannot be, and kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from helpers.runs import ROOT, environment, launch, training_command

from trainer.cli import main
from trainer.data.columns import from_facts, robot_shapes
from trainer.data.lerobot import LeRobotWriter
from trainer.evaluation.simulated_robot import SimulatedRobot, check_features
from trainer.evaluation.simulators import make_simulator
from trainer.offline_trainer import train

Write = Callable[..., Path]
SIMULATOR = '''
import os
import numpy as np
from trainer.registry import SIMULATOR_REGISTRY
from trainer.templates import SimulatorStep

@SIMULATOR_REGISTRY.register("drift")
class Drift:
    """A state that drifts and is pushed; near the origin is success."""

    fps, max_steps = 10, 40

    def __init__(self, task):
        self.task = task
        size = 4 if task == "small" else 5
        if task not in ("", "small", "broken"):
            raise ValueError(f"there is no task '{task}'")
        self.features = {"observation.state": {"shape": [size]}, "action": {"shape": [2]}}

    def reset(self, seed):
        self.random = np.random.default_rng(seed)
        self.state = self.random.normal(size=5).astype(np.float32)
        return {"observation.state": self.state}

    def step(self, action):
        if self.task == "broken" and os.environ.get("RANK") == "1":
            raise RuntimeError("the table fell over")
        self.state = (0.9 * self.state + 0.1 * self.random.normal(size=5)).astype(np.float32)
        self.state[:2] += 0.1 * np.tanh(action)
        distance = float(np.linalg.norm(self.state))
        score = 1 / (1 + distance)
        return SimulatorStep({"observation.state": self.state}, -distance, distance < 0.4, score, False)

    def render(self):
        return np.full((16, 16, 3), min(255, int(50 * abs(self.state[0]))), np.uint8)

    def close(self):
        pass
'''


@pytest.fixture
def evaluated(tiny_experiment: Write, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an experiment with `train.evaluation`."""
    (tmp_path / "drift.py").write_text(SIMULATOR)

    def write(task: str = "", **settings: Any) -> Path:
        def change(config: dict[str, Any]) -> None:
            config["plugins"].append("drift")
            config["train"].update(epoch=1)
            config["train"]["evaluation"] = {"env": f"drift{task}", "episodes": 7, "videos": 3, **settings}

        return tiny_experiment(change)

    return write


def results(run: Path) -> dict[str, Any]:
    (path,) = run.glob("evaluations/*/results.json")
    found: dict[str, Any] = json.loads(path.read_text())
    del found["control_steps_per_s"]
    return found


def test_any_number_of_ranks_measures_the_same(evaluated: Callable[..., Path], tmp_path: Path) -> None:
    path = evaluated()
    # Nothing is learned, because sums over ranks are made in another order.
    same = (
        "data.batch_size=null",
        "data.global_batch_size=16",
        "model.component_optims.velocity_decoder.params.peak_lr=1e-30",
        "model.component_optims.observation_encoder.params.peak_lr=1e-30",
    )
    runs = {ranks: tmp_path / f"of_{ranks}" for ranks in (1, 2)}
    said = {ranks: launch(path, run, ranks, *same) for ranks, run in runs.items()}
    one, two = (results(run) for run in runs.values())
    # Ranks have smaller batches, whose sums are made in another order.
    for name in ("score", "return"):
        values = [[e.pop(name) for e in found["episodes"]] for found in (one, two)]
        np.testing.assert_allclose(*values, rtol=1e-6)
    assert one["episodes"] == two["episodes"]
    for name in ("success_rate", "success_interval", "mean_length", "start_seeds", "env", "max_steps"):
        assert one[name] == two[name]
    assert [e["episode"] for e in one["episodes"]] == list(range(7))
    assert {e["success"] for e in one["episodes"]} == {True, False}
    assert [e["video"] for e in one["episodes"]] == [f"episode_00{n}.mp4" for n in range(3)] + [None] * 4
    films = [{p.name: p.read_bytes() for p in run.glob("evaluations/*/*.mp4")} for run in runs.values()]
    assert sorted(films[0]) == ["episode_000.mp4", "episode_001.mp4", "episode_002.mp4"]
    assert films[0] == films[1]
    for run in runs.values():
        (line,) = (run / "evaluations.jsonl").read_text().splitlines()
        assert json.loads(line)["success_rate"] == one["success_rate"]
    sentence = f"Epoch 1: drift: success {one['success_rate']:.1%}"
    assert [text.count(sentence) for text in said.values()] == [1, 1]


ROLLING_OUT = """
import sys
from pathlib import Path
import drift
from trainer.evaluation.evaluate import evaluate
from trainer.runtime import connect

class Pushing:
    n_action_steps = 1

    def reset(self, seeds=0):
        pass

    def act(self, observation):
        return -observation["observation.state"][:, :2]

    def keep(self, rows):
        pass

with connect("cpu") as runtime:
    out, episodes = Path(sys.argv[1]), int(sys.argv[2])
    result = evaluate(Pushing(), "drift", episodes=episodes, seed=3, out=out, videos=2, runtime=runtime)
    assert result.episodes == episodes
"""


@pytest.mark.parametrize("episodes", [5, 1])
def test_ranks_measure_exactly_what_one_does(tmp_path: Path, episodes: int) -> None:
    (tmp_path / "drift.py").write_text(SIMULATOR)
    (tmp_path / "roll.py").write_text(ROLLING_OUT)
    env = {**environment(), "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}:{ROOT}"}
    for ranks in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        words = [str(tmp_path / "roll.py"), str(tmp_path / f"of_{ranks}"), str(episodes)]
        subprocess.run([sys.executable, *launcher, *words], env=env, check=True, timeout=120)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / f"of_{n}").iterdir()} for n in (1, 2))
    numbers = [json.loads(found.pop("results.json")) for found in (one, two)]
    for found in numbers:
        del found["control_steps_per_s"]
    assert numbers[0] == numbers[1]
    assert one == two, "the films"
    assert len(one) == min(episodes, 2)


def test_a_rank_that_fails_in_its_share_ends_all_with_its_reason(
    evaluated: Callable[..., Path], tmp_path: Path
) -> None:
    command = training_command(evaluated("/broken"), 2, f"train.save_dir={tmp_path / 'run'}")
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode != 0
    assert "failed: RuntimeError: the table fell over" in done.stderr
    assert not list((tmp_path / "run").glob("evaluations/*/results.json"))


def test_the_simulator_of_another_robot_is_found_before_training(
    evaluated: Callable[..., Path], tmp_path: Path
) -> None:
    output = CliRunner().invoke(main, ["train", str(evaluated("/small"))]).output
    message = "the policy works with 'observation.state' of shape (5,); in drift/small it has shape (4,)"
    assert message in output
    assert "train.evaluation.env" in output
    assert "experiment.yaml:" in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_only_what_the_policy_reads_is_compared_with_a_simulator_made_once(
    evaluated: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recording has a wrench, and the simulator has not; the policy does not read it."""
    rng = np.random.default_rng(0)
    shapes = {"observation.state": 5, "observation.wrench": 6, "action": 2}
    features = {n: {"dtype": "float32", "shape": [size], "names": None} for n, size in shapes.items()}
    with LeRobotWriter(tmp_path / "felt", fps=10, features=features) as writer:
        for _ in range(2):
            frames = {n: rng.normal(size=(30, size)).astype(np.float32) for n, size in shapes.items()}
            writer.add_episode(frames, task="feel")
    path = evaluated(episodes=1, videos=0)
    config = yaml.safe_load(path.read_text())
    config["data"]["datamodule"]["params"]["root"] = str(tmp_path / "felt")
    path.write_text(yaml.safe_dump(config))
    made: list[str] = []

    def counted(name: str) -> Any:
        made.append(name)
        return make_simulator(name)

    monkeypatch.setattr("trainer.engine.inputs.make_simulator", counted)
    run = train(path)
    assert len(list(run.glob("evaluations/*/results.json"))) == 1
    assert made == ["drift"]


def test_what_was_measured_stays(evaluated: Callable[..., Path], tmp_path: Path) -> None:
    run = train(evaluated(episodes=2, videos=0))

    def evaluate(*options: str) -> tuple[int, str]:
        words = ["evaluate", str(run), "--env", "drift", "--videos", "0", "--device", "cpu", *options]
        result = CliRunner().invoke(main, words)
        return result.exit_code, result.output

    assert evaluate("--episodes", "3")[0] == 0
    assert evaluate("--episodes", "3")[0] == 0, "the same may be measured again"
    code, printed = evaluate("--episodes", "4", "--json")
    assert code == 0
    folder = run / "evaluations/epoch_1-drift-seed0-4episodes"
    assert json.loads(printed[printed.index("{") :]) == {
        **json.loads((folder / "results.json").read_text()),
        "folder": str(folder),
    }
    assert evaluate("--episodes", "4", "--n-action-steps", "1")[0] == 0
    found = {p.parent.name: json.loads(p.read_text()) for p in run.glob("evaluations/*/results.json")}
    measured = {name: (len(one["episodes"]), one["n_action_steps"]) for name, one in found.items()}
    own = found["epoch_1"]["n_action_steps"]
    assert own != 1
    assert measured == {
        "epoch_1": (2, own),
        "epoch_1-drift-seed0-3episodes": (3, own),
        "epoch_1-drift-seed0-4episodes": (4, own),
        "epoch_1-drift-seed0-4episodes-1actions": (4, 1),
    }
    code, output = evaluate(
        "--episodes", "4", "--out", str(run / "evaluations/epoch_1-drift-seed0-3episodes")
    )
    assert code == 2
    assert "holds another evaluation (episodes 3 instead of 4); choose another --out" in output
    assert CliRunner().invoke(main, ["report", str(run)]).exit_code == 0
    page = " ".join((run / "report.html").read_text().replace("\\\n", " ").split())
    assert "--env drift --episodes 4 --seed 0 --n-action-steps 1" in page
    assert evaluate("--episodes", "5", "--temporal-ensembling", "0.5")[0] == 0
    averaged = run / "evaluations/epoch_1-drift-seed0-5episodes-ensembling0.5/results.json"
    assert json.loads(averaged.read_text())["temporal_ensembling"] == 0.5
    assert CliRunner().invoke(main, ["report", str(run)]).exit_code == 0
    page = " ".join((run / "report.html").read_text().replace("\\\n", " ").split())
    assert "--env drift --episodes 5 --seed 0 --temporal-ensembling 0.5" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "drifd"], "did you mean 'drift'"),
        (["--env", "drift/none"], "there is no task 'none'"),
        (["--env", "drift", "--n-action-steps", "9"], "n_action_steps is 9, but a chunk holds 1 to"),
        (["--env", "drift", "--temporal-ensembling", "on"], "on is neither a number nor `off`"),
        (
            ["--env", "drift", "--temporal-ensembling", "0.1", "--n-action-steps", "2"],
            "n_action_steps 2 has no effect with temporal ensembling",
        ),
        (["--env", "drift", "--device", "cuda:99"], "asks for GPU 99"),
        (["--env", "drift", "--dataset", "mine"], "there is no dataset 'mine'"),
    ],
)
def test_mistakes_of_users_are_one_sentence(
    evaluated: Callable[..., Path], options: list[str], message: str
) -> None:
    run = train(evaluated(episodes=1, videos=0))
    result = CliRunner().invoke(main, ["evaluate", str(run), *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("Error: ")


def test_a_mistake_of_ours_keeps_its_traceback(
    evaluated: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(evaluated(episodes=1, videos=0))

    def broken(*_: object, **__: object) -> None:
        raise ValueError("shapes do not match")

    monkeypatch.setattr("trainer.evaluation.evaluate.play", broken)
    result = CliRunner().invoke(main, ["evaluate", str(run), "--env", "drift"])
    assert isinstance(result.exception, ValueError)


def test_pictures_of_a_dataset_with_channels_first_are_those_of_the_simulator() -> None:
    camera = {"dtype": "video", "shape": [3, 24, 32], "names": ["channels", "height", "width"]}
    facts = {"features": {"observation.images.top": camera}, "windows": {"observation.images.top": [0]}}
    shapes = robot_shapes(from_facts(facts) or {})
    robot = SimulatedRobot("drift/filmed", {}, {"observation.images.top": {"shape": [24, 32, 3]}}, fps=10)
    check_features(shapes, robot)
    assert shapes == {"observation.images.top": (24, 32, 3)}
