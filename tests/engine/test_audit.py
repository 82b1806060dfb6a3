"""The audit of a run: every number that a network saw in training is what it sees on the robot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from trainer.data.lerobot import LeRobotReader, LeRobotWriter
from trainer.data.lerobot.cameras import open_camera
from trainer.data.lerobot.info import NUMERIC
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train

Write = Callable[..., Path]
CAMERAS = ("observation.rgb.head", "wrist")
EPISODES, FRAMES = 2, 12
SHAPES: dict[str, tuple[int, ...]] = {
    **{f"observation.of_{dtype}": (2,) for dtype in NUMERIC},
    "observation.state": (3,),
    "observation.current": (2,),
    "observation.gps": (2,),
    "observation.clock": (1,),
    "observation.still": (2,),
    "observation.image_embedding": (4,),
    "observation.grid": (2, 3),
    "pose": (2,),
    "actions": (2,),
}
TYPES = {"observation.gps": "float64", "observation.clock": "float64"}
FEATURES: dict[str, Any] = {
    **{
        name: {
            "dtype": name.removeprefix("observation.of_") if "of_" in name else TYPES.get(name, "float32"),
            "shape": list(shape),
            "names": None,
        }
        for name, shape in SHAPES.items()
    },
    **{
        name: {"dtype": "video", "shape": [64, 48, 3], "names": ["height", "width", "channels"]}
        for name in CAMERAS
    },
}
OBSERVED = [name for name in FEATURES if name != "actions"]

LOOKING = """
import torch
from trainer.engine.policy_trainer import register_policy
from trainer.templates import Policy

SEEN = {"trained": [], "robot": []}

@register_policy("looking_policy")
class LookingPolicy(Policy):
    n_action_steps = 1

    def __init__(self, components):
        super().__init__()
        self.components = components

    def seen(self, where, batch):
        SEEN[where].append({k: v.clone() for k, v in batch.items() if isinstance(v, torch.Tensor)})

    def loss(self, batch, context):
        if torch.is_grad_enabled():
            self.seen("trained", batch)
        return {"total": self.components["head"](pose=batch["pose"].reshape(len(batch["pose"]), -1)).sum()}

    def predict_action(self, batch, context):
        self.seen("robot", batch)
        return torch.zeros(len(batch["pose"]), 2, 2)
"""
HEAD = """
schema_version: 1
model:
  graph:
    inputs: [pose]
    modules: {head: {_type_: nn.Linear, in_features: HISTORY, out_features: 1}}
    nodes: [{name: value, call: "module:head", args: [$pose]}]
    outputs: [value]
"""


def episode(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {}
    for name, shape in SHAPES.items():
        dtype = np.dtype(FEATURES[name]["dtype"])
        whole = rng.integers(0, 2 if dtype.kind == "b" else 100, (FRAMES, *shape))
        columns[name] = (whole if dtype.kind in "biu" else rng.normal(size=whole.shape)).astype(dtype)
    columns["observation.gps"] = columns["observation.gps"] * 0.1 + [500_000, 5_200_000]
    columns["observation.clock"] = 1.7e9 + np.arange(FRAMES)[:, None] / 10
    columns["observation.still"][:] = (0.1, 700)
    columns["observation.image_embedding"] *= 50
    for name in CAMERAS:
        blocks = rng.integers(0, 256, (FRAMES, 4, 3, 3))
        columns[name] = np.kron(blocks, np.ones((16, 16, 1))).astype(np.uint8)
    return columns


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds") / "set"
    with LeRobotWriter(root, fps=10, features=FEATURES) as writer:
        for seed in range(EPISODES):
            writer.add_episode(episode(seed), task="all")
    return root


def measurements(root: Path) -> Iterator[list[dict[str, np.ndarray]]]:
    """Yield of each episode what a robot would measure: pictures as its cameras give them."""
    reader = LeRobotReader(root)
    rows = np.arange(EPISODES * FRAMES)
    films = {n: open_camera(reader, n, np.arange(EPISODES)).read(rows) for n in CAMERAS}
    for number in range(EPISODES):
        recorded = episode(number)
        for name, frames in films.items():
            recorded[name] = frames[number * FRAMES : (number + 1) * FRAMES].transpose(0, 2, 3, 1)
        yield [{n: recorded[n][frame] for n in OBSERVED} for frame in range(FRAMES)]


MIXED = {
    "observation.of_int64": "min_max",
    "observation.of_bool": "mean_std",
    "observation.of_uint8": "quantile",
    "observation.image_embedding": "quantile",
    "observation.gps": "none",
}


@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("modes", ["mean_std", "min_max", "quantile", "none", MIXED], ids=str)
def test_a_robot_is_shown_what_was_trained_on(
    tiny_experiment: Write, tmp_path: Path, root: Path, modes: Any, history: int
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["plugins"] += ["looking"]
        config["model"] = {
            "component_config_paths": {"head": "head.yaml"},
            "component_optims": {"head": config["model"]["component_optims"]["velocity_decoder"]},
        }
        params = {"root": str(root), "features": OBSERVED, "action_key": "actions", "action_horizon": 2}
        params |= {"obs_proprio_history": history, "obs_images_history": history}
        config["data"]["datamodule"]["params"] = params
        config["data"] |= {"batch_size": 4, "normalization": modes}
        config["train"] |= {"epoch": 1, "trainer": {"type": "looking_policy"}}

    (tmp_path / "looking.py").write_text(LOOKING)
    (tmp_path / "head.yaml").write_text(HEAD.replace("HISTORY", str(2 * history)))
    run = train(tiny_experiment(change))
    import looking  # type: ignore[import-not-found]

    trained = {
        int(batch["index"][row]): {name: values[row] for name, values in batch.items()}
        for batch in looking.SEEN["trained"]
        for row in range(len(batch["index"]))
    }
    assert sorted(trained) == list(range(EPISODES * FRAMES))
    policy = load_policy(run, "cpu", n_action_steps=1)
    assert set(policy.observations) == set(OBSERVED)
    looking.SEEN["robot"].clear()
    for frames in measurements(root):
        policy.reset()
        for frame in frames:
            policy.act(frame)
    assert len(looking.SEEN["robot"]) == len(trained)
    for index, seen in enumerate(looking.SEEN["robot"]):
        assert set(OBSERVED) <= set(seen)
        for name, values in seen.items():
            wanted = trained[index][name]
            assert values.dtype == wanted.dtype, name
            assert torch.equal(values[0], wanted), (name, index)
    for name in CAMERAS:
        pictures = torch.stack([one[name] for one in trained.values()])
        assert 0.5 < pictures.max() <= 1
    if modes == "min_max":
        spread = torch.stack([one["observation.gps"] for one in trained.values()])
        assert spread.amin() == -1
        assert spread.amax() == 1
    kept = yaml.safe_load((run / "config.yaml").read_text())["data"]["normalization"]
    assert kept == modes
