"""A run folder such as a training leaves it, made of synthetic numbers, for the tests of the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import av
import numpy as np

STEPS_PER_EPOCH = 50
STATE_NAMES = [f"joint_{index}" for index in range(7)] + ["gripper", "object_x", "object_y", "object_z"]
CONFIG = """\
# resolved from examples/configs/pick_place.yaml
train:
  project_name: pick_place_flow
  save_dir: runs/pick_place
  num_epochs: 40
  seed: 7
data:
  batch_size: 256
  datamodule:
    type: lerobot_dataset_factory
    params:
      task_name: pick-place
      action_horizon: 16
      url: "note: a value with: colons"
"""


def write_video(
    path: Path, frames: int = 24, size: int = 64, codec: str = "h264", pix_fmt: str = "yuv420p"
) -> None:
    """Write a small film of a square that walks to the right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = size
        stream.pix_fmt = pix_fmt
        for index in range(frames):
            picture = np.full((size, size, 3), 225, np.uint8)
            left = int(index / frames * (size - 16))
            picture[size // 2 - 8 : size // 2 + 8, left : left + 16] = (200, 80, 20)
            picture[-10:] = (90, 110, 90)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def metric_records(steps: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return training records with falling noisy losses, warm-up and cosine decay."""
    rng = np.random.default_rng(seed)
    records = []
    for step in range(1, steps + 1):
        progress = step / steps
        loss = (0.9 * math.exp(-6 * progress) + 0.02) * rng.lognormal(0, 0.25)
        rate = 1e-3 * min(step / (0.05 * steps), 0.5 + 0.5 * math.cos(math.pi * progress))
        records.append(
            {
                "step": step,
                "epoch": step / STEPS_PER_EPOCH,
                "total": loss,
                "flow_loss": loss * 0.9,
                "proprio_loss": loss * 0.1 * rng.lognormal(0, 0.2),
                "encoder lr": rate,
                "velocity lr": rate,
                "encoder grad_norm": 2 * math.exp(-2 * progress) * rng.lognormal(0, 0.3),
                "velocity grad_norm": 5 * math.exp(-2 * progress) * rng.lognormal(0, 0.3),
                "samples_per_s": 21_000 + 900 * rng.standard_normal(),
                "data_wait": abs(0.02 + 0.01 * rng.standard_normal()),
            }
        )
    return records


def write_metrics(folder: Path, records: list[dict[str, Any]], tail: str = "") -> None:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines + tail)


def wilson(successes: int, episodes: int) -> list[float]:
    share, z = successes / episodes, 1.96
    middle = (share + z * z / (2 * episodes)) / (1 + z * z / episodes)
    half = z / (1 + z * z / episodes) * math.sqrt(share * (1 - share) / episodes + z * z / (4 * episodes**2))
    return [middle - half, middle + half]


def write_evaluation(
    folder: Path, epoch: int, failures: set[int], episodes: int = 20, videos: int = 6
) -> dict[str, Any]:
    """Write `evaluations/epoch_<N>` and return its line for `evaluations.jsonl`."""
    target = folder / "evaluations" / f"epoch_{epoch}"
    target.mkdir(parents=True)
    rng = np.random.default_rng(epoch)
    rows = []
    for episode in range(episodes):
        success = episode not in failures
        video = f"episode_{episode:03d}.mp4" if episode < videos else None
        if video:
            write_video(target / video)
        rows.append(
            {
                "episode": episode,
                "seed": 100_000 + episode,
                "success": success,
                "score": 1.0 if success else 0.25,
                "length": int(rng.integers(60, 110)) if success else 200,
                "return": float(rng.normal(800, 60)),
                "video": video,
            }
        )
    wins = episodes - len(failures)
    summary = {
        "env": "metaworld/pick-place-v3",
        "success_rate": wins / episodes,
        "success_interval": wilson(wins, episodes),
        "mean_score": 1.0 - 0.75 * len(failures) / episodes,
        "score_interval": [0.25 + 0.75 * bound for bound in wilson(wins, episodes)],
        "mean_length": float(np.mean([row["length"] for row in rows])),
    }
    results = {
        **summary,
        "checkpoint": f"runs/pick_place/epoch_{epoch}",
        "seed": 100_000,
        "start_seeds": [row["seed"] for row in rows],
        "mean_return": 800.0,
        "control_steps_per_s": 2041.5,
        "episodes": rows,
        "versions": {"metaworld": "3.1.1"},
        "notes": [],
    }
    (target / "results.json").write_text(json.dumps(results))
    return {
        "step": epoch * STEPS_PER_EPOCH,
        "epoch": epoch,
        "episodes": episodes,
        "folder": f"evaluations/epoch_{epoch}",
        **summary,
    }


def run_facts(**changes: Any) -> dict[str, Any]:
    facts = {
        "command": ["trainer/offline_trainer.py", "--train_config", "examples/configs/pick place.yaml"],
        "started": "2026-03-01T10:00:00+00:00",
        "finished": "2026-03-01T10:04:05+00:00",
        "name": "pick place by flow",
        "seed": 7,
        "world_size": 2,
        "device": "cpu",
        "precision": "bf16",
        "versions": {"trainer": "0.1.0", "torch": "2.13.0", "numpy": "2.2.0", "python": "3.11.2"},
        "git": {"revision": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "machine": {"cpu": "Example CPU 3000", "cores": 2, "memory_gb": 24, "gpu": None},
        "components": [
            {
                "name": "encoder",
                "yaml": "experiment_models/state_flow_matching/encoder.yaml",
                "parameters": 120_064,
                "trainable": 0,
                "frozen": True,
                "optimizer": None,
            },
            {
                "name": "velocity",
                "yaml": "experiment_models/state_flow_matching/velocity.yaml",
                "parameters": 1_903_620,
                "trainable": 1_903_620,
                "frozen": False,
                "optimizer": "adamw_warmup_cosine_decay",
            },
        ],
        "steps_per_epoch": STEPS_PER_EPOCH,
        "epochs": 40,
        "train_seconds": 200.0,
        "samples_per_step": 2_100,
        "peak_memory": {"host": 1_250_000_000},
    }
    return {**facts, **changes}


def make_run(folder: Path, epochs: int = 40) -> Path:
    """Write a whole finished run with four evaluations into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "run.json").write_text(json.dumps(run_facts(epochs=epochs)))
    (folder / "models").mkdir()
    (folder / "models" / "velocity.yaml").write_text("version: 1\nmodules:\n  trunk:\n    type: mlp\n")
    write_metrics(folder, metric_records(epochs * STEPS_PER_EPOCH))
    failures = [set(range(14)), set(range(7)), {0, 4, 9}, {2}]
    lines = [
        write_evaluation(folder, epochs * (index + 1) // 4, failed, videos=6 if index == 3 else 1)
        for index, failed in enumerate(failures)
    ]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = {
        "root": "data/pick_place",
        "repo_id": "local/pick_place",
        "fps": 80,
        "episodes": 50,
        "frames": 3_921,
        "features": {
            "observation.state": {"dtype": "float32", "shape": [11], "names": STATE_NAMES},
            "action": {"dtype": "float32", "shape": [4], "names": ["x", "y", "z", "gripper"]},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
        "windows": {"observation.state": [-1, 0], "action": list(range(16))},
        "episode_lengths": {"min": 61, "mean": 78.42, "max": 104},
        "tasks": ["pick the puck and place it"],
        "robot_type": "sawyer",
        "made": {
            "recorded_with": "metaworld/pick-place-v3",
            "seed": 3,
            "attempts": 52,
            "versions": {"metaworld": "3.1.1"},
        },
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    rng = np.random.default_rng(1)
    time = np.linspace(0, 3, 16)[None, :, None]
    pads = np.zeros((8, 16), bool)
    pads[1, 11:] = True
    arrays = {
        "observation.state": rng.normal(size=(8, 2, 11)).astype(np.float32),
        "action": (np.sin(time * rng.normal(1, 0.4, (8, 1, 4))) + 0.05 * rng.normal(size=(8, 16, 4))).astype(
            np.float32
        ),
        "action_is_pad": pads,
    }
    np.savez(folder / "first_batch.npz", **arrays)
    (folder / f"epoch_{epochs}").mkdir()
    (folder / "latest").write_text(f"epoch_{epochs}\n")
    return folder
