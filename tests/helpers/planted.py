"""A plugin with one fault at a time: dataset, policy, optimizer and callback take its name as a parameter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from trainer.data.columns import Column
from trainer.engine.policy_trainer import PolicyTrainer, register_policy
from trainer.registry import (
    CALLBACK_REGISTRY,
    DATASET_BUILDER_REGISTRY,
    OPTIMIZER_BUILDER_REGISTRY,
    TRAINER_REGISTRY,
)
from trainer.templates import Callback, Context, Policy, TrainingDataset

STATE, ACTION, HORIZON, HISTORY, EPISODES, FRAMES, PIXELS = 3, 2, 4, 2, 6, 20, 16


class PlantedDataset(TrainingDataset):
    """Six episodes of an arm whose action is a linear function of its state; `fault` says what is wrong."""

    def __init__(self, fault: str, camera: bool) -> None:
        rng = np.random.default_rng(0)
        self.fault, self.camera = fault, camera
        self.state = np.cumsum(rng.normal(size=(EPISODES, FRAMES, STATE)), axis=1).astype(np.float32) + 5
        self.action = (self.state @ rng.normal(size=(STATE, ACTION))).astype(np.float32)
        self.frames = rng.integers(0, 255, (EPISODES, FRAMES, 3, PIXELS, PIXELS)).astype(np.uint8)
        columns = {
            "observation.state": Column("observation.state", "number", "float32", (STATE,)),
            "action": Column("action", "number", "float32", (ACTION,)),
        }
        if camera:
            columns["observation.image"] = Column(
                "observation.image", "picture", "uint8", (3, PIXELS, PIXELS)
            )
        self.columns = None if fault == "unnamed camera" else columns

    def __len__(self) -> int:
        return EPISODES * FRAMES

    @property
    def episode_index(self) -> np.ndarray:
        return np.repeat(np.arange(EPISODES), FRAMES)

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        order = super().epoch_order(seed, epoch)
        if self.fault == "repeated samples":
            return order // 2
        if self.fault == "foreign samples":
            return order + 1
        if self.fault == "no shuffle":
            return np.arange(len(self))
        if self.fault == "impure order":
            return np.random.permutation(len(self))
        return order

    def __getitems__(self, indices: Any) -> dict[str, Any]:
        rows = np.asarray(indices)
        if self.fault == "index ignored":
            rows = rows // 4
        if self.fault == "divides by worker" and get_worker_info() is not None:
            rows = rows // 2
        episode, frame = rows // FRAMES, rows % FRAMES
        past = np.maximum(frame[:, None] + np.arange(1 - HISTORY, 1), 0)
        future = frame[:, None] + np.arange(HORIZON)
        kept = np.minimum(future, FRAMES - 1)
        state = torch.from_numpy(self.state[episode[:, None], past])
        action = torch.from_numpy(self.action[episode[:, None], kept])
        if self.fault == "normalizes itself":
            mean, std = (
                torch.from_numpy(self.stats()["observation.state"][n]).float() for n in ("mean", "std")
            )
            state = (state - mean) / std
        if self.fault == "noise on the state":
            state = state + torch.randn(state.shape)
        if self.fault == "NaN":
            state = torch.where(torch.from_numpy(frame == 7)[:, None, None], torch.nan, state)
        if self.fault == "frames out of order":
            state = state.flip(1)
        batch: dict[str, Any] = {
            "observation.state": state,
            "action": action,
            "action_is_pad": torch.from_numpy(future >= FRAMES),
        }
        if self.fault == "unnamed camera":
            batch["observation.rgb"] = torch.from_numpy(self.frames[episode, frame])
        elif self.camera:
            frames = torch.from_numpy(self.frames[episode, frame])
            if self.fault == "pictures to 255":
                frames = frames.float()
            if self.fault == "black pictures":
                frames = torch.zeros_like(frames)
            if self.fault == "augments by itself":
                frames = torch.roll(frames, int(np.random.randint(1, 8)), dims=-1)
            batch["observation.image"] = frames
        return batch

    def stats(self) -> dict[str, dict[str, np.ndarray]]:
        flat = {
            "observation.state": self.state.reshape(-1, STATE),
            "action": self.action.reshape(-1, ACTION),
        }
        found = {
            name: {"mean": v.mean(0), "std": v.std(0), "min": v.min(0), "max": v.max(0)}
            for name, v in flat.items()
        }
        if self.fault == "statistics of another dataset":
            found["action"]["mean"] = found["action"]["mean"] + 100
        if self.fault == "statistics in other units":
            found["observation.state"] = {n: v * 1000 for n, v in found["observation.state"].items()}
        if self.fault == "too narrow a range":
            found["action"]["max"] = found["action"]["max"] / 10
        return found

    def facts(self) -> dict[str, Any]:
        features = {
            "observation.state": {"dtype": "float32", "shape": [STATE], "names": None},
            "action": {"dtype": "float32", "shape": [ACTION], "names": None},
        }
        windows = {"observation.state": [-1, 0], "action": list(range(HORIZON))}
        if self.camera and self.fault != "unnamed camera":
            features["observation.image"] = {"dtype": "image", "shape": [3, PIXELS, PIXELS], "names": None}
            windows["observation.image"] = [0]
        if self.fault == "windows the wrong way round":
            windows["observation.state"] = [0, -1]
        return {"features": features, "windows": windows, "fps": 10}


@DATASET_BUILDER_REGISTRY.register("planted_dataset")
class PlantedDatasetFactory:
    def __init__(self, fault: str = "", camera: bool = False) -> None:
        self.dataset = PlantedDataset(fault, camera)

    def build(self, opt_params: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        return {"dataset": self.dataset, "norm_stats": self.dataset.stats()}


class PlantedPolicy(Policy):
    """Regression of a chunk; `fault` says what is wrong."""

    updates: Tensor

    def __init__(self, components: nn.ModuleDict, *, fault: str = "", n_action_steps: int = 2) -> None:
        super().__init__()
        self.components, self.fault, self.n_action_steps = components, fault, n_action_steps
        self.calls = 0
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def predicted(self, batch: dict[str, Tensor]) -> Tensor:
        state = batch["observation.state"]
        if self.fault == "normalizes twice":
            stats = PlantedDataset("", False).stats()["observation.state"]
            state = (state - torch.from_numpy(stats["mean"])) / torch.from_numpy(stats["std"])
        if self.fault == "ignores the observation":
            state = state * 0
        inputs = {"state": state}
        if "image" in self.components["encoder"].inputs:  # type: ignore[operator]
            inputs["image"] = batch["observation.image"]
        condition = self.components["encoder"](**inputs)
        if self.fault == "head without use":
            return condition[:, : HORIZON * ACTION].unflatten(1, (HORIZON, ACTION))
        if self.fault == "encoder cut off":
            condition = condition.detach()
        return self.components["head"](condition=condition).unflatten(1, (HORIZON, ACTION))

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        if self.fault == "writes to a frozen component":
            with torch.no_grad():
                next(self.components["encoder"].parameters()).add_(1e-3)
        if self.fault == "trains a frozen component":
            self.components["encoder"].train(context.training)
        if context.training:
            self.updates.fill_(context.step + 1)  # as a policy does whose schedule is its own
        self.calls += 1
        action, pad = batch["action"], batch["action_is_pad"]
        error = (self.predicted(batch) - action).square().mean(-1)
        if self.fault == "counts padding":
            return {"total": error.mean()}
        keep = pad if self.fault == "counts only padding" else ~pad
        total = (error * keep).sum() / keep.sum().clamp(min=1)
        if self.fault == "times zero":
            total = total * 0
        if self.fault == "auxiliary term cut off":
            auxiliary = self.components["head"](
                condition=self.components["encoder"](batch["observation.state"])
            )
            return {"total": error.detach().mean() + 0.0 * auxiliary.mean()}
        if self.fault in ("term cut off", "terms"):
            size = self.predicted(batch).square().mean()
            return {
                "total": total + 0.3 * (size.detach() if self.fault == "term cut off" else size),
                "error": total,
                "size": size,
                "accuracy": (error < 1).float().mean(),
            }
        if self.fault == "counts its calls":
            total = total * (1 + 0.1 * self.calls)
        if self.fault == "noise of its own":
            total = total + 0 * torch.randn(()).to(total)
        return {"total": total}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        if self.fault == "looks at the answer":
            return observation["action"]
        chunk = self.predicted(observation)
        if self.fault == "brings actions back":
            stats = PlantedDataset("", False).stats()["action"]
            return chunk * torch.from_numpy(stats["std"]) + torch.from_numpy(stats["mean"])
        if self.fault == "draws elsewhere":
            return chunk + 0.1 * torch.randn(chunk.shape)
        if self.fault == "remembers calls":
            self.calls += 1
            return chunk + 0.1 * self.calls
        return chunk


register_policy("planted_trainer")(PlantedPolicy)


class SleepyTrainer(PolicyTrainer):
    policy_class = PlantedPolicy

    def train_step(self, data: dict[str, Any], context: Context) -> dict[str, Any]:
        """Compute gradients and forget the update."""
        losses = self.policy.loss(data, context)
        losses["total"].backward()
        return {"total": losses["total"].detach()}


TRAINER_REGISTRY.add("planted_sleepy_trainer", SleepyTrainer)


class PlantedOptimizer(torch.optim.SGD):
    def __init__(self, params: Any, fault: str, total_steps: int) -> None:
        super().__init__(params, lr=0.01)
        self.fault, self.total_steps, self.made, self.past = fault, total_steps, 0, 0.0
        self._rate()

    def _rate(self) -> None:
        share = self.made / self.total_steps
        rate = {
            "no rate": 0.0,
            "rate of zero after the warm-up": 0.01 if share < 0.2 else 0.0,
            "warm-up as long as the run": 0.01 * (share + 0.01),
            "rate that becomes NaN": 0.01 if share < 0.5 else float("nan"),
            "idle first half": 0.01 if share > 0.5 else 0.0,
            "negative rate": 0.01 if share < 0.5 else -0.01,
        }.get(self.fault, 0.01)
        self.param_groups[0]["lr"] = rate

    def step(self, closure: Any = None) -> Any:
        if self.fault != "step without effect":
            if self.fault == "state beside its state":
                self.past = 0.5 * self.past + 1.0
                for p in (p for p in self.param_groups[0]["params"] if p.grad is not None):
                    p.grad.mul_(self.past)
            super().step(closure)
        self.made += 1
        self._rate()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "made": self.made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.made = state["made"]
        super().load_state_dict({k: v for k, v in state.items() if k != "made"})


@OPTIMIZER_BUILDER_REGISTRY.register("planted_optimizer")
class PlantedOptimizerFactory:
    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def build(self, params: Any, total_steps: int) -> PlantedOptimizer:
        params = list(params)
        if self.fault == "leaves out biases" and len(params) > 1:
            params = [p for p in params if p.ndim > 1]
        if self.fault == "copies of parameters":
            params = [nn.Parameter(p.detach().clone()) for p in params]
        return PlantedOptimizer(params, self.fault, total_steps)


@CALLBACK_REGISTRY.register("planted_callback")
class PlantedCallback(Callback):
    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def after_step(self, experiment: Any, metrics: Any) -> None:
        if self.fault == "changes weights":
            with torch.no_grad():
                next(experiment.components["head"].module.parameters()).mul_(0.99)
        if self.fault == "draws":
            torch.rand(1)

    def after_epoch(self, experiment: Any) -> None:
        if self.fault == "changes weights at the end of an epoch":
            with torch.no_grad():
                next(experiment.components["encoder"].module.parameters()).zero_()


def _model(inputs: list[str], modules: dict[str, Any], nodes: list[dict[str, Any]]) -> dict[str, Any]:
    graph = {"inputs": inputs, "modules": modules, "nodes": nodes, "outputs": [nodes[-1]["name"]]}
    return {"schema_version": 1, "model": {"graph": graph}}


def encoder_yaml(batch_norm: bool = False, spare: bool = False) -> dict[str, Any]:
    modules: dict[str, Any] = {
        "flatten": {"_type_": "nn.Flatten"},
        "embedding": {"_type_": "mlp", "dims": [STATE * HISTORY, 16]},
    }
    nodes: list[dict[str, Any]] = [
        {"name": "flat", "call": "module:flatten", "args": ["$state"]},
        {"name": "condition", "call": "module:embedding", "args": ["$flat"]},
    ]
    if batch_norm:
        modules["norm"] = {"_type_": "nn.BatchNorm1d", "num_features": 16}
        nodes.append({"name": "normed", "call": "module:norm", "args": ["$condition"]})
    if spare:
        modules["spare"] = {"_type_": "mlp", "dims": [STATE * HISTORY, 16]}
        nodes.insert(1, {"name": "unused", "call": "module:spare", "args": ["$flat"]})
    return _model(["state"], modules, nodes)


def head_yaml() -> dict[str, Any]:
    modules = {"decoder": {"_type_": "mlp", "dims": [16, 16, HORIZON * ACTION]}}
    return _model(
        ["condition"], modules, [{"name": "chunk", "call": "module:decoder", "args": ["$condition"]}]
    )


def planted_config(folder: Path, encoder: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the clean experiment, whose model YAMLs are written; a test puts its fault in."""
    for name, model in (("encoder", encoder or encoder_yaml()), ("head", head_yaml())):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(model, sort_keys=False))
    return {
        "plugins": ["helpers.planted"],
        "seed": 1,
        "model": {
            "component_config_paths": {"encoder": "encoder.yaml", "head": "head.yaml"},
            "component_optims": {
                "encoder": {"type": "planted_optimizer", "params": {}},
                "head": {"type": "planted_optimizer", "params": {}},
            },
        },
        "data": {
            "datamodule": {"type": "planted_dataset", "params": {"fault": ""}},
            "batch_size": 8,
        },
        "train": {
            "trainer": {"type": "planted_trainer", "params": {"fault": ""}},
            "project_name": "planted",
            "save_dir": str(folder / "run"),
            "epoch": 4,
            "loggers": [],
            "ema": {"enabled": True, "decay": 0.99},
        },
    }


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
