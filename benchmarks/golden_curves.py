"""Golden curves: loss, gradient norms and final weights of short runs, recorded and compared bit for bit.

A change that is no change of computation leaves every number as it was:

    python benchmarks/golden_curves.py compare --pusht <Push-T>   # says which case moved, and exits with 1
    python benchmarks/golden_curves.py record --pusht <Push-T>    # after a change that is meant to move them

Other processors and versions of torch round otherwise, so the recording says what it was made on. Everything
is trained on one thread per rank. Only the command line, `metrics.jsonl` and the checkpoint files are used,
so that the same script speaks of old and new code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "tests/golden/curves.json"
STEPS = 50
FAMILY_STEPS = 20
CONFIGS = ROOT / "examples/configs"
SCHEDULE = [
    f"train.max_steps={STEPS}",
    "train.epoch=null",
    "train.evaluation=null",
    "model.component_optims.observation_encoder.params.warmup_steps=10",
    "model.component_optims.velocity_decoder.params.warmup_steps=10",
]


class Runs:
    """Trains in a folder of its own.

    Args:
        folder: for datasets and runs.
        pusht: the Push-T dataset, or None.
    """

    def __init__(self, folder: Path, pusht: Path | None) -> None:
        self.folder = folder
        self.pusht = pusht

    def train(
        self, config: Path, name: str, *overrides: str, ranks: int = 1, schedule: Sequence[str] = SCHEDULE
    ) -> Path:
        """Train a configuration and return its run folder.

        Raises:
            SystemExit: it failed, with what it said.
        """
        run = self.folder / "runs" / name
        program = [str(ROOT / "trainer/offline_trainer.py"), "--train_config", str(config)]
        for override in (*schedule, f"train.save_dir={run}", *overrides):
            program += ["--set", override]
        if ranks > 1:
            program = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", *program]
        self._run([sys.executable, *program])
        return run

    def metaworld(self) -> list[str]:
        """Record some demonstrations, the same ones each time, and return what names them."""
        root = self.folder / "pick-place"
        if not root.exists():
            config = str(CONFIGS / "metaworld_pick_place.yaml")
            edited = self.folder / "record.yaml"
            edited.write_text(
                yaml.safe_dump(
                    {
                        "defaults": [{"base": config}],
                        "data": {
                            "recording": {"episodes": 12},
                            "datamodule": {"params": {"root": str(root)}},
                        },
                    }
                )
            )
            self._run([sys.executable, "-m", "trainer.cli", "record", "--train_config", str(edited)])
        return [f"data.datamodule.params.root={root}"]

    def pusht_of(self, kind: str, *overrides: str) -> list[str]:
        """Return what names Push-T; pictures come from a cache in this folder.

        In fp32, for bfloat16 is rounded otherwise, and takes minutes, where a processor does not have it.
        """
        cache = [f"data.datamodule.params.frame_cache={self.folder / 'frames'}"] if kind == "image" else []
        return [f"data.datamodule.params.root={self.pusht}", "precision=fp32", *cache, *overrides]

    def _run(self, command: list[str]) -> None:
        paths = [
            str(ROOT),
            str(ROOT / "policy_constructor"),
            *os.environ.get("PYTHONPATH", "").split(os.pathsep),
        ]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "disabled",
            "PYTHONPATH": os.pathsep.join(paths),
        }
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def metaworld(runs: Runs) -> Path:
    """Train the shipped Meta-World experiment."""
    return runs.train(CONFIGS / "metaworld_pick_place.yaml", "metaworld", *runs.metaworld())


def pusht_state(runs: Runs) -> Path:
    """Train the shipped Push-T experiment, from state."""
    return runs.train(CONFIGS / "pusht_state.yaml", "pusht_state", *runs.pusht_of("state"))


def pusht_image(runs: Runs) -> Path:
    """Train the shipped Push-T experiment, from its camera."""
    return runs.train(CONFIGS / "pusht_image.yaml", "pusht_image", *runs.pusht_of("image"))


def everything(runs: Runs) -> Path:
    """Average, dropout, augmentation and two micro-batches at once."""
    path = runs.folder / "everything.yaml"
    models = ROOT / "experiment_models/state_flow_matching/pusht_image"
    decoder = runs.folder / "decoder_with_dropout.yaml"
    dropout = {"graph": {"modules": {"velocity_decoder": {"dropout": 0.1}}}}
    decoder.write_text(
        yaml.safe_dump(
            {"schema_version": 1, "defaults": [str(models / "velocity_decoder.yaml")], "model": dropout}
        )
    )
    changes: dict[str, Any] = {
        "defaults": [{"base": str(CONFIGS / "pusht_image.yaml")}],
        "precision": "fp32",
        "model": {"component_config_paths": {"velocity_decoder": str(decoder)}},
        "data": {
            "batch_size": 8,
            "augmentation": {"color_jitter": {"brightness": 0.2}, "random_shift": {"pixels": 4}},
        },
        "train": {"accumulate_grad_batches": 2},
    }
    path.write_text(yaml.safe_dump(changes))
    return runs.train(path, "everything", *runs.pusht_of("image"))


def two_ranks(runs: Runs) -> Path:
    """Train on two ranks."""
    size = "data.batch_size=128"
    return runs.train(CONFIGS / "metaworld_pick_place.yaml", "two_ranks", *runs.metaworld(), size, ranks=2)


def mixture(runs: Runs) -> Path:
    """Train on two datasets, one part to three."""
    config = yaml.safe_load((CONFIGS / "metaworld_pick_place.yaml").read_text(encoding="utf-8"))
    (root,) = (value.partition("=")[2] for value in runs.metaworld())
    params = {**config["data"]["datamodule"]["params"], "root": root}
    del params["task_name"], params["repo_id"]
    entries = [
        {"type": "lerobot_dataset_factory", "name": name, "weight": weight, "params": params}
        for name, weight in (("one", 1), ("two", 3))
    ]
    config["plugins"].append("experiment_training.components.dataloader.mixture")
    config["data"]["datamodule"] = {
        "type": "mixture_dataset_factory",
        "params": {"task_name": "both", "datasets": entries},
    }
    path = runs.folder / "mixture.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    for name, value in config["model"]["component_config_paths"].items():
        config["model"]["component_config_paths"][name] = str(ROOT / value)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return runs.train(path, "mixture")


def resumed(runs: Runs) -> Path:
    """Stop within an epoch, and go on."""
    config, data = CONFIGS / "metaworld_pick_place.yaml", runs.metaworld()
    runs.train(config, "resumed", *data, f"train.max_steps={STEPS // 2}", "data.batch_size=100")
    return runs.train(config, "resumed", *data, "data.batch_size=100")


def family(key: str) -> Callable[[Runs], Path]:
    """Return what trains a family that looks through cameras, small, on films made on the spot."""

    def case(runs: Runs) -> Path:
        sys.path.append(str(ROOT / "tests"))
        from helpers.camera_families import experiment, write_dataset

        root = runs.folder / "wander"
        if not root.exists():
            write_dataset(root)
        config = experiment(key, runs.folder, root)
        config["train"].update(max_steps=FAMILY_STEPS, gradient_clip_val=1.0)
        path = runs.folder / f"{key}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return runs.train(path, key, schedule=())

    return case


def policy(key: str) -> Callable[[Runs], Path]:
    """Return what trains a policy that others compare with, small, on films made on the spot."""

    def case(runs: Runs) -> Path:
        sys.path.append(str(ROOT / "tests"))
        from helpers.policies import CASES, write_films

        root = runs.folder / "films"
        if not root.exists():
            write_films(root)
        steps = [f"train.max_steps={FAMILY_STEPS}", "train.gradient_clip_val=1.0"]
        return runs.train(CASES[key].write(runs.folder / f"{key}-models", root), key, *steps, schedule=())

    return case


FAMILIES = (
    "naive_flow_matching_policy_trainer",
    "vfp_single_expert_trainer",
    "vfp_single_expert_trainer_depth",
    "variational_flow_matching_policy_trainer",
    "cfg_vqvae_flow_matching_trainer_kot",
    "mutual_information_estimator_trainer",
)
POLICIES = ("regression", "mip", "act_image", "diffusion_unet", "diffusion_transformer")
CASES: dict[str, Callable[[Runs], Path]] = {
    **{f.__name__: f for f in (metaworld, pusht_state, pusht_image, everything, two_ranks, mixture, resumed)},
    **{key: family(key) for key in FAMILIES},
    **{key: policy(key) for key in POLICIES},
}
NO_COMPONENTS = {"training_state.pt", "policy_state.pt", "measured.pt"}
NEED_PUSHT = {"pusht_state", "pusht_image", "everything"}


def summary(run: Path) -> dict[str, Any]:
    """Return the losses, the gradient norms and a checksum of the weights of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    norms = sorted(key for key in lines[0] if "grad_norm" in key)
    checkpoint = run / (run / "latest").read_text(encoding="utf-8").split()[0]
    weights = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.pt")):
        if path.name.endswith("_opt.pt") or path.name in NO_COMPONENTS:
            continue
        for name, value in sorted(torch.load(path, weights_only=True).items()):
            weights.update(f"{path.stem} {name} {tuple(value.shape)}".encode())
            weights.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return {
        "steps": [line["step"] for line in lines],
        "total": [line["total"] for line in lines],
        **{norm: [line[norm] for line in lines] for norm in norms},
        "weights": weights.hexdigest(),
    }


def made_on() -> dict[str, str]:
    """Return what else decides how numbers are rounded."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "cpu": cpu or platform.machine(), "capability": capability}


def first_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Say where two summaries differ, or None."""
    if before.keys() != now.keys():
        return f"{sorted(now)} instead of {sorted(before)}"
    for name, values in before.items():
        if values != now[name]:
            if isinstance(values, str):
                return f"other {name}"
            pairs = enumerate(zip(values, now[name], strict=False))
            step = next((f"step {i}: {b} instead of {a}" for i, (a, b) in pairs if a != b), "length")
            return f"{name}, {step}"
    return None


def main() -> None:
    """Record, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("--pusht", type=Path, help="the Push-T dataset; without it its cases are left out")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--file", type=Path, default=RECORDED)
    asked = parser.parse_args()
    cases = [name for name in asked.cases if asked.pusht is not None or name not in NEED_PUSHT]
    recorded = json.loads(asked.file.read_text(encoding="utf-8")) if asked.file.exists() else {"cases": {}}
    moved = False
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), asked.pusht.resolve() if asked.pusht else None)
        for name in cases:
            found = summary(CASES[name](runs))
            if asked.what == "record":
                recorded["cases"][name] = found
                recorded["made_on"] = made_on()
                asked.file.parent.mkdir(parents=True, exist_ok=True)
                asked.file.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
                print(f"{name}: recorded", flush=True)
                continue
            difference = first_difference(recorded["cases"][name], found)
            moved = moved or difference is not None
            print(f"{name}: {difference or 'the same'}", flush=True)
    if moved and recorded["made_on"] != made_on():
        print(f"recorded on {recorded['made_on']}, compared on {made_on()}: rounding may differ")
    sys.exit(int(moved))


if __name__ == "__main__":
    main()
