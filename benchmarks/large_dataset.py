"""Trains on more frames than the process may have memory for, and says how much it took.

    python benchmarks/large_dataset.py [--gb 8] [--limit-gb 5] [--folder <on a large disk>] [--on-the-fly]

Writes a dataset whose decoded frames take so many GB, then trains an epoch on it with the engine, from the
cache of decoded frames or decoding them on the fly, in a process whose whole address space, files that it
maps included, is limited to less.
Prints JSON: memory of that process as the system counts it, `anonymous` being what it cannot take back.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from dataset_throughput import LARGE, write_dataset

BATCH = 16
PROJECT = Path(__file__).resolve().parents[1]
PLUGINS = (
    "experiment_training.components.dataloader.lerobot_data",
    "experiment_training.components.optimizer.adamw_cosine_decay",
    "experiment_training.components.trainer.imitation_learning.state_flow_matching"
    ".state_flow_matching_trainer",
)
ENCODER = """
model:
  graph:
    inputs: [images_front, state]
    modules:
      pixels:
        _type_: nn.Sequential
        _args_:
          - { _type_: nn.AvgPool2d, _args_: [8] }
          - { _type_: nn.Conv2d, _args_: [3, 16, 5], stride: 4 }
          - { _type_: nn.ReLU }
          - { _type_: nn.Flatten }
          - { _type_: nn.Linear, _args_: [4256, 50] }
      flatten: { _type_: nn.Flatten }
    nodes:
      - { name: seen, call: "module:pixels", args: [$images_front] }
      - { name: flat, call: "module:flatten", args: [$state] }
      - { name: condition, call: "op:cat", args: [[$seen, $flat]], kwargs: { dim: -1 } }
    outputs: [condition]
    return: single
"""
DECODER = """
model:
  graph:
    inputs: [time, noise, condition]
    modules:
      velocity:
        _type_: flow_velocity_mlp
        action_dim: 14
        action_horizon: 16
        condition_dim: 64
        width: 64
        num_blocks: 2
        time_dim: 64
    nodes:
      - name: v
        call: "module:velocity"
        kwargs: { time: $time, noise: $noise, condition: $condition }
    outputs: [v]
    return: single
"""


def write_experiment(folder: Path, on_the_fly: bool) -> Path:
    """Write the configuration and the models of a small policy that sees the camera."""
    (folder / "observation_encoder.yaml").write_text("schema_version: 1\n" + ENCODER, encoding="utf-8")
    (folder / "velocity_decoder.yaml").write_text("schema_version: 1\n" + DECODER, encoding="utf-8")
    adamw = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-3, "warmup_steps": 10}}
    names = ("observation_encoder", "velocity_decoder")
    experiment: dict[str, Any] = {
        "plugins": list(PLUGINS),
        "model": {
            "component_config_paths": {name: str(folder / f"{name}.yaml") for name in names},
            "component_optims": dict.fromkeys(names, adamw),
        },
        "data": {
            "datamodule": {
                "type": "lerobot_dataset_factory",
                "params": {
                    "root": str(folder / "set"),
                    "task_name": "large",
                    "action_horizon": 16,
                    "frame_cache": None if on_the_fly else str(folder / "cache"),
                },
            },
            "batch_size": BATCH,
        },
        "train": {
            "trainer": {
                "type": "state_flow_matching_trainer",
                "params": {"action_horizon": 16, "action_dim": 14},
            },
            "project_name": "large",
            "save_dir": str(folder / "run"),
            "epoch": 1,
        },
    }
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(experiment), encoding="utf-8")
    return path


def watched(command: list[str], limit: int, log: Path) -> dict[str, float]:
    """Run a command within an address space of `limit` bytes; return the memory that it took, in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=os.environ | {"WANDB_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=log.open("w"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    largest: dict[str, float] = {}
    while process.poll() is None:
        for name, size in _memory(process.pid).items():
            largest[name] = max(largest.get(name, 0), size)
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"training failed:\n{log.read_text(encoding='utf-8')[-2000:]}")
    return largest | {"seconds": round(time.perf_counter() - began, 1)}


def _memory(pid: int) -> dict[str, float]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    wanted = {"VmPeak": "address space", "VmHWM": "peak resident", "RssAnon": "anonymous", "RssFile": "files"}
    fields = dict(line.split(":", 1) for line in lines)
    return {
        name: round(int(fields[key].split()[0]) * 1024 / 1e6, 1)
        for key, name in wanted.items()
        if key in fields
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=8.0, help="GB of decoded frames")
    parser.add_argument("--limit-gb", type=float, default=5.0, help="GB of address space for the training")
    parser.add_argument("--folder", type=Path, help="where the dataset goes for the time of the run")
    parser.add_argument("--on-the-fly", action="store_true", help="decode in training, without a cache")
    arguments = parser.parse_args()
    per_frame = LARGE[0] * LARGE[1] * 3
    episodes = max(1, round(arguments.gb * 1e9 / per_frame / 250))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        began = time.perf_counter()
        cameras = {"observation.images.front": LARGE}
        write_dataset(folder / "set", episodes, 250, cameras, video_encoder="libx264")
        written = time.perf_counter() - began
        config = write_experiment(folder, arguments.on_the_fly)
        command = [sys.executable, "trainer/offline_trainer.py", "--train_config", str(config)]
        taken = watched(command, int(arguments.limit_gb * 1e9), folder / "log")
        metrics = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [json.loads(line)["total"] for line in metrics]
    result = {
        "GB of frames": round(episodes * 250 * per_frame / 1e9, 2),
        "frames": "decoded on the fly" if arguments.on_the_fly else "from the cache",
        "GB of address space allowed": arguments.limit_gb,
        "steps": len(losses),
        "batch": BATCH,
        "loss, first and last tenth": [
            round(sum(part) / len(part), 3)
            for part in (losses[: len(losses) // 10], losses[-(len(losses) // 10) :])
        ],
        "seconds to write the dataset": round(written, 1),
        "seconds to train, with building the cache": taken.pop("seconds"),
        "peak memory in MB": taken,
        "MB of a batch as float32": round(BATCH * per_frame * 4 / 1e6),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
