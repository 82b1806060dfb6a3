"""Small experiments with the shipped policies, and what each of them must do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from model_constructor import random_source

from trainer.checkpoint.folder import find_checkpoint
from trainer.data.batch_path import BatchPath
from trainer.data.lerobot import LeRobotWriter
from trainer.data.loader import BatchLoader
from trainer.deployment.policy_parts import build_models
from trainer.deployment.robot_policy import load_policy
from trainer.registry import DATASET_BUILDER_REGISTRY, TRAINER_REGISTRY
from trainer.templates import Context
from trainer.utils.random import RowRandom, SampleRandom

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "experiment_models"
LEARNING = "experiment_training.components.trainer.imitation_learning"
CAMERA = "observation.image"
FRAMES, HORIZON, STEPS = 24, 16, 20


def write_films(root: Path) -> Path:
    """Write three episodes of a dot that follows its target, with a camera of 96 × 96 pixels."""
    rng = np.random.default_rng(0)
    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        CAMERA: {"dtype": "video", "shape": [96, 96, 3], "names": ["height", "width", "channels"]},
    }
    with LeRobotWriter(root, fps=10, features=features) as writer:
        for _ in range(3):
            state = np.cumsum(rng.normal(size=(FRAMES, 2)), axis=0).astype(np.float32)
            frames = np.zeros((FRAMES, 96, 96, 3), np.uint8)
            for t, (x, y) in enumerate(np.clip(48 + 4 * state, 8, 88).astype(int)):
                frames[t, y - 8 : y + 8, x - 8 : x + 8] = 200
            writer.add_episode({"observation.state": state, "action": 0.5 * state, CAMERA: frames}, task="go")
    return root


@dataclass(frozen=True)
class Case:
    """A policy and its small networks.

    Attributes:
        name: the folder of the policy below the trainers of imitation learning.
        components: component → model YAML below `experiment_models/` and its parameters.
        params: of the trainer, beside the sizes of a chunk.
        data: parameters of the dataset.
        normalization: of `data.normalization`.
        cameras: the features that are pictures.
    """

    name: str
    components: Mapping[str, tuple[str, Mapping[str, Any]]]
    params: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    normalization: Mapping[str, str] = field(default_factory=dict)
    cameras: tuple[str, ...] = ()

    @property
    def plugin(self) -> str:
        return f"{LEARNING}.{self.name}.{self.name}_trainer"

    def dataset_params(self, root: Path) -> dict[str, Any]:
        history = {"obs_proprio_history": 2, "features": ["observation.state", *self.cameras]}
        return {"root": str(root), "action_horizon": HORIZON, "task_name": "go", **history, **self.data}

    def write(self, folder: Path, root: Path) -> Path:
        """Write model and experiment YAMLs and return the experiment's path."""
        folder.mkdir(parents=True, exist_ok=True)
        for component, (base, params) in self.components.items():
            model = {"schema_version": 1, "defaults": [str(MODELS / base)], "params": dict(params)}
            (folder / f"{component}.yaml").write_text(yaml.safe_dump(model))
        adamw = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-3, "warmup_steps": 2}}
        config = {
            "plugins": [
                "experiment_training.components.dataloader.lerobot_data",
                "experiment_training.components.optimizer.adamw_cosine_decay",
                self.plugin,
            ],
            "seed": 3,
            "device": "cpu",
            "precision": "fp32",
            "model": {
                "component_config_paths": {name: f"{name}.yaml" for name in self.components},
                "component_optims": {name: dict(adamw) for name in self.components},
            },
            "data": {
                "datamodule": {"type": "lerobot_dataset_factory", "params": self.dataset_params(root)},
                "batch_size": 6,
                "normalization": dict(self.normalization),
            },
            "train": {
                "trainer": {
                    "type": f"{self.name}_trainer",
                    "params": {"action_horizon": HORIZON, "action_dim": 2, **self.params},
                },
                "project_name": "small",
                "save_dir": "run",
                "max_steps": STEPS,
            },
        }
        path = folder / "experiment.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path


STATE_ENCODER = {"observation_dim": 2, "features": 4}
FLOW_DECODER = {"action_dim": 2, "condition_dim": 68}
ONE_OBSERVATION = {"obs_proprio_history": 1}
DIFFUSION_DATA = {"action_offset": -1}
MIN_MAX = {"action": "min_max"}

Networks = dict[str, tuple[str, Mapping[str, Any]]]


def flow_networks(folder: str) -> Networks:
    return {
        "observation_encoder": (f"{folder}/small/observation_encoder.yaml", STATE_ENCODER),
        "velocity_decoder": (f"{folder}/small/velocity_decoder.yaml", FLOW_DECODER),
    }


def diffusion_networks(folder: str, encoder: Mapping[str, Any], predictor: Mapping[str, Any]) -> Networks:
    return {
        "observation_encoder": (f"diffusion_policy/{folder}/observation_encoder.yaml", encoder),
        "noise_predictor": (f"diffusion_policy/{folder}/noise_predictor.yaml", predictor),
    }


FEW_STEPS = {"num_train_steps": 100, "num_inference_steps": 5}
CASES = {
    "state_flow_matching": Case("state_flow_matching", flow_networks("state_flow_matching")),
    "regression": Case("regression", flow_networks("regression")),
    "mip": Case("mip", flow_networks("mip")),
    "diffusion_unet": Case(
        "diffusion_policy",
        diffusion_networks("small", STATE_ENCODER, FLOW_DECODER),
        FEW_STEPS,
        DIFFUSION_DATA,
        MIN_MAX,
    ),
    "diffusion_transformer": Case(
        "diffusion_policy",
        diffusion_networks("small_transformer", {"observation_dim": 2}, {"action_dim": 2}),
        {**FEW_STEPS, "noise_scheduler": "ddim"},
        DIFFUSION_DATA,
        MIN_MAX,
    ),
    "diffusion_image": Case(
        "diffusion_policy",
        diffusion_networks("small_image", {}, {}),
        FEW_STEPS,
        {**DIFFUSION_DATA, "obs_images_history": 2},
        MIN_MAX,
        (CAMERA,),
    ),
    "act": Case(
        "act",
        {
            "style_encoder": ("act/small/style_encoder.yaml", {"state_dim": 2, "action_dim": 2}),
            "action_transformer": ("act/small/action_transformer.yaml", {"state_dim": 2, "action_dim": 2}),
        },
        {"n_action_steps": 8},
        ONE_OBSERVATION,
    ),
    "act_image": Case(
        "act",
        {
            "backbone": ("act/small_image/backbone.yaml", {}),
            "style_encoder": ("act/small_image/style_encoder.yaml", {}),
            "action_transformer": ("act/small_image/action_transformer.yaml", {}),
        },
        {},
        ONE_OBSERVATION,
        cameras=(CAMERA,),
    ),
}


def losses_of(run: Path) -> list[float]:
    """Return the loss of every step."""
    return [json.loads(line)["total"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run: Path, case: Case) -> dict[str, torch.Tensor]:
    """Return all weights of the last checkpoint, under their component's name."""
    folder = find_checkpoint(run)
    return {
        f"{component}.{name}": value
        for component in case.components
        for name, value in torch.load(folder / f"{component}.pt", weights_only=True).items()
    }


def loader_of(case: Case, root: Path, run: Path, batch_size: int = 1) -> BatchLoader:
    """Return the loader of a run's training data."""
    built = DATASET_BUILDER_REGISTRY.get("lerobot_dataset_factory")().build({}, case.dataset_params(root))
    path = BatchPath(load_policy(run, "cpu").normalizer, cameras=case.cameras)
    return BatchLoader(built["dataset"], batch_size=batch_size, path=path)


def parameters_without_gradient(case: Case, folder: Path, batch: dict[str, Any]) -> list[str]:
    """Return the parameters that the loss of a fresh policy does not reach."""
    torch.manual_seed(0)
    models = build_models({name: folder / f"{name}.yaml" for name in case.components})
    policy_class = TRAINER_REGISTRY.get(f"{case.name}_trainer").policy_class
    policy = policy_class(models, action_horizon=HORIZON, action_dim=2, **case.params)
    random = SampleRandom(0)
    with random_source(random):
        policy.loss(batch, Context(random, training=True))["total"].backward()
    return [name for name, p in models.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def check_acts_as_in_training(case: Case, root: Path, run: Path, row: int = 9) -> None:
    """Check that a robot which measures what a frame of the data holds does what the policy says of it."""
    robot = load_policy(run, "cpu")
    loader = loader_of(case, root, run)
    random = RowRandom([0])
    with torch.no_grad(), random_source(random):
        chunk = robot.policy.predict_action(loader.sample(np.array([row])), Context(random))
    wanted = robot.normalizer.denormalize("action", chunk.float()).numpy()[0]
    built = DATASET_BUILDER_REGISTRY.get("lerobot_dataset_factory")()
    alone = {**case.dataset_params(root), "obs_proprio_history": 1, "obs_images_history": 1}
    frames = built.build({}, alone)["dataset"].__getitems__([row - 1, row])
    seen = [
        {"observation.state": frames["observation.state"][i, 0].numpy()}
        | {name: frames[name][i].numpy().transpose(1, 2, 0) for name in case.cameras}
        for i in range(2)
    ]
    robot.act(seen[0])
    # The frame before is remembered; the robot starts to act at this one.
    robot._step, robot._random = 0, RowRandom([0])
    present = robot.first_action
    for step in range(robot.n_action_steps):
        np.testing.assert_allclose(robot.act(seen[1]), wanted[present + step], rtol=1e-4, atol=1e-5)
