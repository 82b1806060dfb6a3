"""Which share of a training step is spent waiting for data: Push-T, from states and from its cached camera.

    python benchmarks/data_wait.py <folder of the Push-T dataset> [--steps 600] [--workers 0]

Trains the shipped experiments with the engine, and the same with tiny networks, whose steps leave the loader
the least time. The share is what the run itself logs, over the second half of the steps. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
MODELS = PROJECT / "experiment_models" / "state_flow_matching"


def write_tiny_models(folder: Path) -> dict[str, list[str]]:
    """Write models of some 0.1 M parameters; return case → settings that choose them."""

    def conv(given: int, made: int) -> dict[str, Any]:
        norm = {"_type_": "nn.GroupNorm", "_args_": [1, made]}
        sizes = {"in_channels": given, "out_channels": made, "stride": 2, "padding": 1}
        return {"_type_": "conv_bn_act", **sizes, "norm": norm}

    def write(name: str, base: Path, change: dict[str, Any]) -> Path:
        content = {"schema_version": 1, "defaults": [str(base)], **change}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    small = {"model": {"graph": {"modules": {"velocity_decoder": {"width": 64, "num_blocks": 2}}}}}
    pixels = {
        "_type_": "nn.Sequential",
        "_args_": [
            *(conv(*pair) for pair in ((3, 8), (8, 16), (16, 32), (32, 64))),
            {"_type_": "nn.Flatten"},
            {"_type_": "mlp", "dims": [2304, 256]},
        ],
    }
    encoder = {"model": {"graph": {"modules": {"pixels": pixels}}}}
    chosen = {
        "state": {"velocity_decoder": write("state", MODELS / "pusht" / "velocity_decoder.yaml", small)},
        "image": {
            "velocity_decoder": write("image", MODELS / "pusht_image" / "velocity_decoder.yaml", small),
            "observation_encoder": write(
                "eyes", MODELS / "pusht_image" / "observation_encoder.yaml", encoder
            ),
        },
    }
    return {
        case: [f"model.component_config_paths.{name}={path}" for name, path in paths.items()]
        for case, paths in chosen.items()
    }


def run(case: str, root: Path, folder: Path, steps: int, settings: list[str]) -> dict[str, Any]:
    """Train; return what the second half of the run logged."""
    save = folder / "run"
    fixed = [
        f"data.datamodule.params.root={root}",
        f"train.save_dir={save}",
        f"train.max_steps={steps}",
        "train.checkpoint.resume_from=null",
        "train.evaluation=null",
    ]
    if case == "image":
        fixed.append(f"data.datamodule.params.frame_cache={folder / 'cache'}")
    command = [sys.executable, "trainer/offline_trainer.py"]
    command += ["--train_config", f"examples/configs/pusht_{case}.yaml"]
    command += [word for setting in (*fixed, *settings) for word in ("--set", setting)]
    done = subprocess.run(
        command, cwd=PROJECT, env=os.environ | {"WANDB_MODE": "disabled"}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"training failed:\n{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in (save / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = [line for line in lines[len(lines) // 2 :] if "data_wait" in line]
    seconds = sum(1 / line["samples_per_s"] for line in rates)
    waited = sum(line["data_wait"] / line["samples_per_s"] for line in rates)
    batch = yaml.safe_load((save / "config.yaml").read_text(encoding="utf-8"))["data"]["batch_size"]
    return {
        "batch": batch,
        "ms per step": round(1000 * batch * seconds / len(rates), 2),
        "ms waited per step": round(1000 * batch * waited / len(rates), 3),
        "share of waiting": round(waited / seconds, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pusht", type=Path, help="the Push-T dataset")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--workers", type=int, default=0, help="data.num_workers")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "load at the beginning": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = write_tiny_models(folder)
        workers = [f"data.num_workers={arguments.workers}"]
        for case in ("state", "image"):
            for size, settings in (("shipped", []), ("tiny", tiny[case])):
                found = run(case, arguments.pusht.resolve(), folder, arguments.steps, workers + settings)
                result[f"{case}, {size} network"] = found
                print(f"{case}, {size}: {found}", file=sys.stderr)
    result["load at the end"] = round(os.getloadavg()[0], 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
