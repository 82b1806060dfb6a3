"""A small dataset and a small experiment that every room's tests can train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

STATE, ACTION, HORIZON, HISTORY = 5, 2, 4, 2
PLUGINS = [
    "experiment_training.components.dataloader.lerobot_data",
    "experiment_training.components.optimizer.adamw_cosine_decay",
    "experiment_training.components.trainer.imitation_learning.state_flow_matching.state_flow_matching_trainer",
]
STEPS_PER_EPOCH = 6 * 30 // 16


def write_dataset(root: Path, episodes: int = 6, frames: int = 30) -> Path:
    """Write a LeRobot dataset whose action is a fixed linear function of the state."""
    from trainer.data.lerobot import LeRobotWriter

    rng = np.random.default_rng(0)
    gains = rng.normal(size=(STATE, ACTION))
    features = {
        "observation.state": {"dtype": "float32", "shape": [STATE], "names": None},
        "action": {"dtype": "float32", "shape": [ACTION], "names": None},
    }
    with LeRobotWriter(root, fps=10, features=features) as writer:
        for _ in range(episodes):
            state = np.cumsum(rng.normal(size=(frames, STATE)), axis=0).astype(np.float32)
            action = (state @ gains).astype(np.float32)
            writer.add_episode({"observation.state": state, "action": action}, task="follow")
    return root


def encoder_yaml() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "model": {
            "graph": {
                "inputs": ["state"],
                "modules": {
                    "flatten": {"_type_": "nn.Flatten"},
                    "embedding": {"_type_": "mlp", "dims": [STATE * HISTORY, 16]},
                },
                "nodes": [
                    {"name": "flat", "call": "module:flatten", "args": ["$state"]},
                    {"name": "condition", "call": "module:embedding", "args": ["$flat"]},
                ],
                "outputs": ["condition"],
            }
        },
    }


def decoder_yaml(dropout: float = 0.0) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "model": {
            "graph": {
                "inputs": ["time", "noise", "condition"],
                "modules": {
                    "decoder": {
                        "_type_": "flow_velocity_mlp",
                        "action_dim": ACTION,
                        "action_horizon": HORIZON,
                        "condition_dim": 16,
                        "width": 32,
                        "num_blocks": 2,
                        "time_dim": 16,
                        "dropout": dropout,
                    }
                },
                "nodes": [
                    {
                        "name": "velocity",
                        "call": "module:decoder",
                        "kwargs": {"time": "$time", "noise": "$noise", "condition": "$condition"},
                    }
                ],
                "outputs": ["velocity"],
            }
        },
    }


def experiment(save_dir: Path, root: Path) -> dict[str, Any]:

    def optimizer() -> dict[str, Any]:
        return {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-3, "warmup_steps": 2}}

    return {
        "plugins": list(PLUGINS),
        "seed": 7,
        "device": "cpu",
        "precision": "fp32",
        "model": {
            "component_config_paths": {
                "observation_encoder": "models/observation_encoder.yaml",
                "velocity_decoder": "models/velocity_decoder.yaml",
            },
            "component_optims": {"observation_encoder": optimizer(), "velocity_decoder": optimizer()},
        },
        "data": {
            "datamodule": {
                "type": "lerobot_dataset_factory",
                "params": {
                    "repo_id": "local/follow",
                    "root": str(root),
                    "local_files_only": True,
                    "task_name": "follow",
                    "action_horizon": HORIZON,
                    "obs_proprio_history": HISTORY,
                },
            },
            "batch_size": 16,
        },
        "train": {
            "trainer": {
                "type": "state_flow_matching_trainer",
                "params": {"action_horizon": HORIZON, "action_dim": ACTION, "n_action_steps": 2},
            },
            "project_name": "tiny",
            "save_dir": str(save_dir),
            "epoch": 2,
            "log_every_n_steps": 4,
            "gradient_clip_val": 1.0,
            "ema": {"enabled": True, "decay": 0.9},
        },
    }


def fixed_schedule(config: dict[str, Any]) -> None:
    """Make the schedule independent of the number of epochs, so that a run can be prolonged."""
    for optimizer in config["model"]["component_optims"].values():
        optimizer["params"] = {"peak_lr": 1e-3, "warmup_steps": 2, "total_steps": 40}
