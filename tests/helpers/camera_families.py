"""The families that look through cameras: their small components, a batch, a dataset, an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_constructor import build_model
from torch import Tensor, nn

from helpers.dataset_samples import moving_picture

MODELS = Path(__file__).parents[2] / "experiment_models"
PLUGINS = "experiment_training.components"
IMITATION = f"{PLUGINS}.trainer.imitation_learning"
CAMERAS = ("cam_head", "cam_left", "cam_right")
JOINTS, CHUNK = 24, 40

BACKBONES = ("head_backbone", "left_backbone", "right_backbone")
VARIATIONAL = ("vqvae_posterior", "vqvae_prior", "info_embedder", "gate", "moe_action_decoder")
GUIDED = ("vqvae_posterior", "vqvae_prior", "vqvae_codebook", "proprio_projector", "action_decoder")
AUTOENCODERS = {
    "action_encoder": "action_encoder",
    "action_decoder": "action_decoder",
    "state_encoder": "state_resnet34_encoder",
    "state_decoder": "state_resnet34_decoder",
}
# Trainer key: folder of the models, module of the trainer, trained components, frozen ones, needs geomloss.
FAMILIES: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...], bool]] = {
    "naive_flow_matching_policy_trainer": (
        "naive_flow_matching_policy/small",
        "naive_flow_matching_policy.naive_flow_matching_policy_trainer",
        ("backbone", "info_embedder", "action_decoder"),
        ("da3",),
        False,
    ),
    "vfp_single_expert_trainer": (
        "vfp_single_expert/small",
        "vfp_single_expert.vfp_single_expert_trainer",
        (*BACKBONES, "info_embedder", "action_decoder"),
        (),
        False,
    ),
    "vfp_single_expert_trainer_depth": (
        "vfp_single_expert/small_depth",
        "vfp_single_expert.vfp_single_expert_trainer_depth",
        (*BACKBONES, "info_embedder", "action_decoder"),
        ("da3",),
        False,
    ),
    "variational_flow_matching_policy_trainer": (
        "variational_flow_matching_policy/small",
        "variational_flow_matching_policy.variational_flow_matching_policy_trainer",
        ("backbone", *VARIATIONAL),
        ("da3",),
        True,
    ),
    "cfg_vqvae_flow_matching_trainer_kot": (
        "cfg_vqvae_flow_matching/small",
        "cfg_vqvae_flow_matching.cfg_vqvae_flow_matching_trainer_kot",
        GUIDED,
        ("backbone", "da3"),
        True,
    ),
    "mutual_information_estimator_trainer": (
        "mutual_information_estimator/small",
        "mutual_information_estimator.mutual_information_estimator_trainer",
        tuple(AUTOENCODERS),
        (),
        False,
    ),
}


def small_components(key: str) -> nn.ModuleDict:
    """Build the small components of a family, in train mode, its frozen ones frozen."""
    folder, _, trained, frozen, _ = FAMILIES[key]
    torch.manual_seed(0)
    names = (*trained, *frozen)
    files = {name: AUTOENCODERS.get(name, name) if "mutual" in folder else name for name in names}
    built = {name: build_model(MODELS / folder / f"{file}.yaml") for name, file in files.items()}
    for name in frozen:
        built[name].requires_grad_(False).eval()
    return nn.ModuleDict(built)


def small_batch(rows: int = 3) -> dict[str, Tensor]:
    """Return a batch as it reaches a policy; the chunks of its last two samples end early."""
    generator = torch.Generator().manual_seed(1)
    is_pad = torch.zeros(rows, CHUNK, dtype=torch.bool)
    is_pad[-2:, 30:] = True
    state = torch.randn(rows, CHUNK, 2 * JOINTS, generator=generator)
    return {
        "action": torch.randn(rows, CHUNK, JOINTS, generator=generator),
        "action_is_pad": is_pad,
        "observation.state": state,
        "observation.proprio_state": state[..., :JOINTS],
        **{f"observation.images.{c}": torch.rand(rows, 3, 64, 64, generator=generator) for c in CAMERAS},
    }


def write_dataset(root: Path, episodes: int = 2, frames: int = 48, edge: int = 32) -> Path:
    """Write a LeRobot dataset of a robot with currents and three cameras."""
    from trainer.data.lerobot import LeRobotWriter

    numbers = {"dtype": "float32", "shape": [JOINTS], "names": None}
    film = {"dtype": "video", "shape": [edge, edge, 3], "names": None}
    features = {
        "observation.state": numbers,
        "observation.current": numbers,
        "action": numbers,
        **{f"observation.images.{camera}": film for camera in CAMERAS},
    }
    rng = np.random.default_rng(0)
    with LeRobotWriter(root, fps=20, features=features) as writer:
        for episode in range(episodes):
            walk = np.cumsum(rng.normal(size=(frames, JOINTS)), axis=0).astype(np.float32)
            columns: dict[str, Any] = {
                "observation.state": walk,
                "observation.current": rng.normal(size=walk.shape).astype(np.float32),
                "action": np.roll(walk, -1, axis=0),
            }
            for number, camera in enumerate(CAMERAS):
                seed = 10 * episode + number
                columns[f"observation.images.{camera}"] = moving_picture(frames, edge, edge, seed=seed)
            writer.add_episode(columns, task="wander")
    return root


def experiment(key: str, save_dir: Path, root: Path, **params: Any) -> dict[str, Any]:
    """Return an experiment with the small components of a family."""
    folder, module, trained, frozen, transports = FAMILIES[key]
    names = (*trained, *frozen)
    files = {name: AUTOENCODERS.get(name, name) if "mutual" in folder else name for name in names}
    optimizer = {
        "type": "adamw_warmup_cosine_decay",
        "params": {"peak_lr": 1e-3, "warmup_steps": 2, "total_steps": 40},
    }
    config: dict[str, Any] = {
        "plugins": [
            f"{PLUGINS}.dataloader.lerobot_data",
            f"{PLUGINS}.optimizer.adamw_cosine_decay",
            f"{IMITATION}.{module}",
        ],
        "seed": 7,
        "device": "cpu",
        "precision": "fp32",
        "model": {
            "component_config_paths": {n: str(MODELS / folder / f"{f}.yaml") for n, f in files.items()},
            "component_build_args": {n: {"init": False, "freeze": True} for n in frozen},
            "component_optims": dict.fromkeys(trained, optimizer),
        },
        "data": {
            "datamodule": {
                "type": "lerobot_dataset_factory",
                "params": {
                    "root": str(root),
                    "local_files_only": True,
                    "task_name": "wander",
                    "action_horizon": CHUNK,
                    "obs_proprio_history": CHUNK,
                },
            },
            "batch_size": 4,
        },
        "train": {
            "trainer": {"type": key, "params": params},
            "project_name": "small",
            "save_dir": str(save_dir),
            "max_steps": 3,
            "log_every_n_steps": 1,
            "loggers": [],
        },
    }
    if transports:
        config["plugins"].append(f"{PLUGINS}.loss.sinkhorn_knopp")
        config["train"]["loss"] = {"type": "sinkhorn_knopp", "params": {"blur": 0.5}}
    return config
