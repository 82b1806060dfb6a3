"""A policy that sees through a camera: the same frames in training and on a robot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from helpers.run_folder import metrics

from trainer.data.lerobot import LeRobotReader, LeRobotWriter
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train

CAMERA = "observation.images.top"
ENCODER = {
    "schema_version": 1,
    "model": {
        "graph": {
            "inputs": ["state", "images_top"],
            "modules": {
                "convolution": {
                    "_type_": "nn.Conv2d", "in_channels": 3, "out_channels": 2, "kernel_size": 8, "stride": 8
                },
                "flatten": {"_type_": "nn.Flatten"},
                "embedding": {"_type_": "mlp", "dims": [2 * 64 + 10, 16]},
            },
            "nodes": [
                {"name": "map", "call": "module:convolution", "args": ["$images_top"]},
                {"name": "seen", "call": "module:flatten", "args": ["$map"]},
                {"name": "felt", "call": "module:flatten", "args": ["$state"]},
                {"name": "both", "call": "op:cat", "args": [["$seen", "$felt"]], "kwargs": {"dim": -1}},
                {"name": "condition", "call": "module:embedding", "args": ["$both"]},
            ],
            "outputs": ["condition"],
        }
    },
}  # fmt: skip


def write_films(root: Path) -> Path:
    """Write three episodes with a camera that sees a bright square move."""
    rng = np.random.default_rng(0)
    features = {
        "observation.state": {"dtype": "float32", "shape": [5], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        CAMERA: {"dtype": "video", "shape": [64, 64, 3], "names": ["height", "width", "channels"]},
    }
    with LeRobotWriter(root, fps=10, features=features) as writer:
        for _ in range(3):
            frames = np.zeros((20, 64, 64, 3), np.uint8)
            for t in range(20):
                frames[t, 16:32, 2 * t : 2 * t + 16] = 200
            state = rng.normal(size=(20, 5)).astype(np.float32)
            action = state[:, :2].copy()
            writer.add_episode({"observation.state": state, "action": action, CAMERA: frames}, task="see")
    return root


def test_a_camera_is_trained_on_and_deployed_alike(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    root = write_films(tmp_path / "films")

    def seeing(config: dict[str, Any]) -> None:
        config["data"]["datamodule"]["params"]["root"] = str(root)
        config["data"]["datamodule"]["params"]["frame_cache"] = str(tmp_path / "cache")
        config["data"]["augmentation"] = {"random_shift": {"pixels": 2}}

    path = tiny_experiment(seeing)
    (tmp_path / "models/observation_encoder.yaml").write_text(yaml.safe_dump(ENCODER, sort_keys=False))
    run = train(path)
    assert len(metrics(run)) == 2 * (60 // 16)
    first = np.load(run / "first_batch.npz")[CAMERA]
    assert first.shape[1:] == (3, 64, 64)
    assert 0 <= first.min() < first.max() <= 1

    policy = load_policy(run, device="cpu")
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[16:32, :16] = 200
    seen: list[torch.Tensor] = []
    encoder = policy.policy.components["observation_encoder"]
    encoder.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["images_top"]), with_kwargs=True
    )
    state = np.zeros(5, np.float32)
    actions = []
    for picture in (frame, np.moveaxis(frame, -1, 0)):
        policy.reset(seeds=1)
        actions.append(policy.act({"observation.state": state, CAMERA: picture}))
    np.testing.assert_array_equal(*actions)
    expected = torch.from_numpy(np.moveaxis(frame, -1, 0))[None].float() / 255
    torch.testing.assert_close(seen[0], expected)
    assert LeRobotReader(root).features[CAMERA].is_frames
