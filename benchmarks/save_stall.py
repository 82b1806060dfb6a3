"""What a save costs the training: beside a bare copy of the same state, and in the steps that follow.

`python benchmarks/save_stall.py` trains a flow-matching policy of 100 M parameters (AdamW, weight average) on
numbers that mean nothing. By turns it copies the state into memory that is kept, saves it with `torch.save`,
and saves it with the framework, on the same disk. Prints JSON: seconds, the ratios `save_over_bare_copy` and
`ten_steps_after_over_usual`, and the save over `torch.save`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from trainer.utils.tree import tree_map

STATE, ACTION, HORIZON, CONDITION = 8, 4, 16, 64


def write_dataset(root: Path) -> None:
    from trainer.data.lerobot import LeRobotWriter

    random = np.random.default_rng(0)
    features = {
        "observation.state": {"dtype": "float32", "shape": [STATE], "names": None},
        "action": {"dtype": "float32", "shape": [ACTION], "names": None},
    }
    with LeRobotWriter(root, fps=10, features=features) as writer:
        for _ in range(40):
            frames = {
                "observation.state": random.normal(size=(100, STATE)).astype(np.float32),
                "action": random.normal(size=(100, ACTION)).astype(np.float32),
            }
            writer.add_episode(frames, task="none")


def models(width: int, blocks: int) -> dict[str, Any]:
    encoder = {
        "inputs": ["state"],
        "modules": {
            "flatten": {"_type_": "nn.Flatten"},
            "embedding": {"_type_": "mlp", "dims": [STATE, CONDITION]},
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
                "condition_dim": CONDITION,
                "width": width,
                "num_blocks": blocks,
                "time_dim": 256,
            }
        },
        "nodes": [{"name": "velocity", "call": "module:decoder", "kwargs": {n: f"${n}" for n in names}}],
        "outputs": ["velocity"],
    }
    graphs = {"observation_encoder": encoder, "velocity_decoder": decoder}
    return {name: {"schema_version": 1, "model": {"graph": graph}} for name, graph in graphs.items()}


def write_experiment(folder: Path, arguments: argparse.Namespace) -> Path:
    write_dataset(folder / "data")
    for name, model in models(arguments.width, arguments.blocks).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(model, sort_keys=False), encoding="utf-8")
    optimizer = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-4, "total_steps": 100_000}}
    components = ("observation_encoder", "velocity_decoder")
    params = {
        "repo_id": "local/none",
        "root": "data",
        "local_files_only": True,
        "task_name": "none",
        "action_horizon": HORIZON,
        "obs_proprio_history": 1,
    }
    plugins = (
        "dataloader.lerobot_data",
        "optimizer.adamw_cosine_decay",
        "trainer.imitation_learning.state_flow_matching.state_flow_matching_trainer",
    )
    config = {
        "plugins": [f"experiment_training.components.{plugin}" for plugin in plugins],
        "device": arguments.device,
        "model": {
            "component_config_paths": {c: f"{c}.yaml" for c in components},
            "component_optims": dict.fromkeys(components, optimizer),
        },
        "data": {
            "datamodule": {"type": "lerobot_dataset_factory", "params": params},
            "batch_size": arguments.batch,
        },
        "train": {
            "trainer": {
                "type": "state_flow_matching_trainer",
                "params": {"action_horizon": HORIZON, "action_dim": ACTION, "n_action_steps": 8},
            },
            "project_name": "save_stall",
            "save_dir": "run",
            "epoch": 1000,
            "ema": {"enabled": True},
        },
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


class Training:
    """The experiment, one step at a time."""

    def __init__(self, experiment: Any) -> None:
        self.e = experiment
        self.device = experiment.runtime.device
        self.batches = self._batches()
        self.kept: dict[int, torch.Tensor] = {}

    def _batches(self) -> Iterator[Any]:
        for epoch in range(1_000_000):
            yield from self.e.batches.epoch(epoch, start_step=0)

    def finish_queue(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def steps(self, number: int) -> list[float]:
        """Make steps and return the seconds of each."""
        seconds = []
        for _ in range(number):
            started = time.perf_counter()
            with self.e.runtime.autocast():
                context = self.e.context()
                self.e.trainer.train_step(next(self.batches), **self.e.step_arguments(context))
            self.finish_queue()
            self.e.progress.iteration += 1
            self.e.writer.check()
            seconds.append(time.perf_counter() - started)
        return seconds

    def state(self) -> dict[str, Any]:
        """Return weights, optimizers and average."""
        e = self.e
        return {
            "models": {n: m.state_dict() for n, m in e.models.items()},
            "optimizers": {n: o.state_dict() for n, o in e.optimizers.items()},
            "update": e.update.state_dict(),
        }

    def bare_copy(self) -> float:
        """Copy every tensor of the state once, into memory that is there; return the seconds."""
        tensors: dict[int, torch.Tensor] = {}
        tree_map(lambda x: tensors.setdefault(id(x), x) if torch.is_tensor(x) else x, self.state())
        distinct = list({t.data_ptr(): t for t in tensors.values()}.values())
        for number, source in enumerate(distinct):
            if number not in self.kept:
                pinned = source.is_cuda
                self.kept[number] = torch.empty_like(source, device="cpu", pin_memory=pinned)
                self.kept[number].copy_(source)
        self.finish_queue()
        started = time.perf_counter()
        for number, source in enumerate(distinct):
            self.kept[number].copy_(source, non_blocking=True)
        self.finish_queue()
        return time.perf_counter() - started

    def plain_save(self, path: Path) -> float:
        """Save the state with torch, as a script would."""
        started = time.perf_counter()
        torch.save(self.state(), path)
        seconds = time.perf_counter() - started
        path.unlink()
        return seconds

    def our_save(self) -> tuple[float, list[float], float]:
        """Save and go on; return the seconds in `save`, of each of ten steps, and until it is written."""
        self.finish_queue()
        started = time.perf_counter()
        self.e.save()
        saving = time.perf_counter() - started
        seconds = self.steps(10)
        self.e.writer.wait()
        return saving, seconds, time.perf_counter() - started


def settle(training: Training) -> None:
    """Let the disk finish what the turn before has left."""
    os.sync()
    training.steps(1)


def measure(training: Training, rounds: int, scratch: Path) -> dict[str, Any]:
    training.steps(10)
    first = training.our_save()
    bare, plain, ours, usual, after, written = [], [], [], [], [], []
    for _ in range(rounds):
        settle(training)
        plain.append(training.plain_save(scratch / "plain.pt"))
        settle(training)
        bare.append(training.bare_copy())
        steps = training.steps(10)
        usual.append(sum(steps))
        saving, seconds, whole = training.our_save()
        ours.append(saving)
        after.append(sum(seconds))
        written.append(whole)
    return {
        "parameters": sum(p.numel() for m in training.e.models.values() for p in m.parameters()),
        "device": str(training.device),
        "threads": torch.get_num_threads(),
        "bare_copy_s": rounded(bare),
        "save_s": rounded(ours),
        "plain_torch_save_s": rounded(plain),
        "first_save_s": round(first[0], 4),
        "save_over_bare_copy": round(statistics.median(ours) / statistics.median(bare), 3),
        "save_over_torch_save": round(statistics.median(ours) / statistics.median(plain), 3),
        "step_s": round(statistics.median(usual) / 10, 4),
        "ten_steps_after_over_usual": round(statistics.median(after) / statistics.median(usual), 3),
        "each_ten_steps_after_over_usual": rounded(a / u for a, u in zip(after, usual, strict=True)),
        "written_after_s": rounded(written),
    }


def rounded(values: Any) -> list[float]:
    return [round(value, 4) for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1680)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="on the disk to measure  [default: the temporary folder]")
    arguments = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"

    from trainer.config.loader import load_located
    from trainer.engine.assemble import assemble
    from trainer.engine.build_data import build_data
    from trainer.engine.check import check
    from trainer.runtime import connect

    folder = Path(tempfile.mkdtemp(prefix="save_stall.", dir=arguments.folder))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        located = load_located(write_experiment(folder, arguments), [f"train.save_dir={folder / 'run'}"])
        runtime = stack.enter_context(connect(arguments.device))
        checked = check(located)
        experiment = stack.enter_context(assemble(checked, build_data(checked), runtime))
        print(json.dumps(measure(Training(experiment), arguments.rounds, folder), indent=2))


if __name__ == "__main__":
    main()
