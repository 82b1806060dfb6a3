"""Writes a state flow-matching experiment of any size, with its dataset: what several benchmarks train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

STATE, ACTION, HORIZON, HISTORY = 8, 4, 16, 2
PLUGINS = [
    "experiment_training.components.dataloader.lerobot_data",
    "experiment_training.components.optimizer.adamw_cosine_decay",
    "experiment_training.components.trainer.imitation_learning.state_flow_matching.state_flow_matching_trainer",
]


@dataclass(frozen=True)
class Size:
    """How large an experiment is.

    Attributes:
        width: of the decoder's residual blocks.
        blocks: their number.
        condition: width of the encoder's output.
        batch: samples per rank and batch.
        episodes: of the dataset, 50 frames each.
    """

    width: int
    blocks: int
    condition: int = 64
    batch: int = 16
    episodes: int = 10


def write_dataset(root: Path, episodes: int, frames: int = 50) -> None:
    """Write episodes whose actions are a fixed linear function of the state."""
    from trainer.data.lerobot import LeRobotWriter

    random = np.random.default_rng(0)
    gains = random.normal(size=(STATE, ACTION))
    features = {
        "observation.state": {"dtype": "float32", "shape": [STATE], "names": None},
        "action": {"dtype": "float32", "shape": [ACTION], "names": None},
    }
    with LeRobotWriter(root, fps=10, features=features) as writer:
        for _ in range(episodes):
            state = np.cumsum(random.normal(size=(frames, STATE)), axis=0).astype(np.float32)
            action = (state @ gains).astype(np.float32)
            writer.add_episode({"observation.state": state, "action": action}, task="follow")


def models(size: Size, dropout: float = 0.0) -> dict[str, Any]:
    """Return component → model YAML."""
    encoder = {
        "inputs": ["state"],
        "modules": {
            "flatten": {"_type_": "nn.Flatten"},
            "embedding": {"_type_": "mlp", "dims": [STATE * HISTORY, size.condition]},
        },
        "nodes": [
            {"name": "flat", "call": "module:flatten", "args": ["$state"]},
            {"name": "condition", "call": "module:embedding", "args": ["$flat"]},
        ],
        "outputs": ["condition"],
    }
    names = ("time", "noise", "condition")
    decoder = {
        "inputs": list(names),
        "modules": {
            "decoder": {
                "_type_": "flow_velocity_mlp",
                "action_dim": ACTION,
                "action_horizon": HORIZON,
                "condition_dim": size.condition,
                "width": size.width,
                "num_blocks": size.blocks,
                "time_dim": 32,
                "dropout": dropout,
            }
        },
        "nodes": [{"name": "velocity", "call": "module:decoder", "kwargs": {n: f"${n}" for n in names}}],
        "outputs": ["velocity"],
    }
    graphs = {"observation_encoder": encoder, "velocity_decoder": decoder}
    return {name: {"schema_version": 1, "model": {"graph": graph}} for name, graph in graphs.items()}


def write_experiment(folder: Path, size: Size, changes: dict[str, Any], dropout: float = 0.0) -> Path:
    """Write dataset, models and experiment below `folder`, and return the experiment's path.

    Args:
        folder: an existing folder.
        size: how large.
        changes: merged into the configuration key by key.
        dropout: of the decoder.
    """
    write_dataset(folder / "data", size.episodes)
    for name, model in models(size, dropout).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(model, sort_keys=False), encoding="utf-8")
    components = ("observation_encoder", "velocity_decoder")
    optimizer = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-3, "warmup_steps": 10}}
    config: dict[str, Any] = {
        "plugins": list(PLUGINS),
        "seed": 7,
        "device": "cpu",
        "precision": "fp32",
        "model": {
            "component_config_paths": {c: f"{c}.yaml" for c in components},
            "component_optims": {c: dict(optimizer) for c in components},
        },
        "data": {
            "datamodule": {
                "type": "lerobot_dataset_factory",
                "params": {
                    "repo_id": "local/follow",
                    "root": str(folder / "data"),
                    "local_files_only": True,
                    "task_name": "follow",
                    "action_horizon": HORIZON,
                    "obs_proprio_history": HISTORY,
                },
            },
            "batch_size": size.batch,
        },
        "train": {
            "trainer": {
                "type": "state_flow_matching_trainer",
                "params": {"action_horizon": HORIZON, "action_dim": ACTION, "n_action_steps": 8},
            },
            "project_name": "benchmark",
            "save_dir": str(folder / "run"),
            "epoch": 1,
            "gradient_clip_val": 1.0,
            "ema": {"enabled": True, "decay": 0.99},
        },
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(_merged(config, changes), sort_keys=False), encoding="utf-8")
    return path


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merged(below, value) if both else value
    return merged
