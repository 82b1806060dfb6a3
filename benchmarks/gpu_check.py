"""One table of what a device does with the shipped experiments, for whoever has a GPU; runs on a CPU too.

    python benchmarks/gpu_check.py --device cuda --steps 200        # about 10 minutes on one GPU
    python benchmarks/gpu_check.py --device cpu --steps 12 --quick  # that the script itself works

Every row is a process of its own: the Push-T experiments from state and from pictures, in fp32 and bf16, with
and without `torch.compile`, in one process, as the only rank of a process group, and sharded on that rank. It
trains half the steps, stops, and takes the run up for the rest. Data are random numbers of Push-T's shapes in
memory, so nothing has to be downloaded or decoded. Columns:

* `samples/s` and `waiting`: over the second half of the last part, from the run's own log;
* `syncs`: operations that made the host wait for the device, per step, outside of steps that log (asked: 0);
* `memory`: the most that tensors took, in MB;
* `by hand`: time of a step over that of a loop written by hand with the same batches, model and optimizers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from trainer.registry import DATASET_BUILDER_REGISTRY
from trainer.templates import Callback, TrainingDataset

ROOT = Path(__file__).resolve().parents[1]
LOG_EVERY = 20
SAMPLES = 20_000
PICTURE = "observation.image"


class RandomPushT(TrainingDataset):
    """Random samples in Push-T's shapes: two states, one picture or two poses, a chunk of sixteen actions.

    Args:
        picture: with camera frames, else with the pose of the T.
    """

    concurrent_reads = True

    def __init__(self, picture: bool) -> None:
        self.image_keys = (PICTURE,) if picture else ()
        draw = np.random.default_rng(0)
        self._frames = draw.integers(0, 256, (256, 3, 96, 96), np.uint8) if picture else None
        self._state = draw.normal(size=(SAMPLES, 2, 2)).astype(np.float32)
        self._pose = draw.normal(size=(SAMPLES, 2, 3)).astype(np.float32)
        self._action = draw.normal(size=(SAMPLES, 16, 2)).astype(np.float32)

    def __len__(self) -> int:
        """Return the number of samples."""
        return SAMPLES

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Return a batch."""
        rows = np.asarray(indices)
        batch = {"observation.state": self._state[rows], "action": self._action[rows]}
        if self._frames is None:
            batch["observation.environment_state"] = self._pose[rows]
        else:
            batch[PICTURE] = self._frames[rows % len(self._frames)]
        tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in batch.items()}
        return {**tensors, "action_is_pad": torch.zeros(len(rows), 16, dtype=torch.bool)}

    def facts(self) -> dict[str, Any]:
        """Return which frames a sample holds."""
        seen = {PICTURE: [0]} if self.image_keys else {"observation.environment_state": [-1, 0]}
        return {"windows": {"observation.state": [-1, 0], **seen, "action": list(range(16))}}


@DATASET_BUILDER_REGISTRY.register("random_pusht")
class RandomPushTFactory:
    """Builds `RandomPushT`."""

    def build(self, opt_params: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Return the dataset; it needs no normalization."""
        return {"dataset": RandomPushT(params["picture"])}


class Measure(Callback):
    """Counts host syncs, and measures the second half of the run.

    Args:
        device: of the run.
        steps: updates of this process.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.steps = device, steps
        self.done = 0
        self.syncs: list[int] = []
        self.seconds = 0.0
        self._caught: list[Any] = []
        self._began = 0.0

    def after_step(self, experiment: Any, metrics: Mapping[str, Any]) -> None:
        """Note what the step has cost."""
        self.done += 1
        if experiment.progress.iteration % LOG_EVERY:
            self.syncs.append(len(self._caught))
        self._caught.clear()
        if self.done == self.steps // 2:
            self._wait()
            self._began = time.perf_counter()

    def after_training(self, experiment: Any) -> None:
        """Stop the clock."""
        self._wait()
        self.seconds = (time.perf_counter() - self._began) / max(self.done - self.steps // 2, 1)

    def watch(self, caught: list[Any]) -> None:
        """Count the warnings of torch about waiting."""
        self._caught = caught

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def write_experiment(folder: Path, kind: str, changes: dict[str, Any]) -> Path:
    """Write the shipped Push-T experiment of a kind over random data, and return its path."""
    base = ROOT / f"examples/configs/pusht_{kind}.yaml"
    shipped = yaml.safe_load(base.read_text(encoding="utf-8"))
    models = shipped["model"]["component_config_paths"]
    shipped["model"]["component_config_paths"] = {name: str(ROOT / path) for name, path in models.items()}
    shipped["plugins"] = [*shipped["plugins"], "gpu_check"]
    params = {"picture": kind == "image"}
    data = {
        "datamodule": {"type": "random_pusht", "params": params},
        "batch_size": 64,
        "normalization": "none",
    }
    shipped["data"] = {
        **data,
        **({"augmentation": shipped["data"]["augmentation"]} if kind == "image" else {}),
    }
    shipped["train"].update(
        epoch=None, evaluation=None, log_every_n_steps=LOG_EVERY, **changes.pop("train", {})
    )
    shipped["train"]["trainer"]["params"]["train_on_padding"] = True
    for optimizer in shipped["model"]["component_optims"].values():
        optimizer["params"] = {"peak_lr": 1e-3, "warmup_steps": 2, "total_steps": 100_000}
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump({**shipped, **changes}, sort_keys=False), encoding="utf-8")
    return path


def by_hand(experiment: Any, steps: int) -> float:
    """Return the seconds of a step of a loop without the framework, over the same parts."""
    from torch import nn

    from trainer.templates import Context
    from trainer.utils.random import RowRandom

    e = experiment
    parameters = [p for c in e.components.values() for p in c.module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=e.runtime.device.type == "cuda")
    average = [p.detach().clone() for p in parameters]
    context = Context(RowRandom(range(e.config.data.batch_size), e.runtime.device), training=True)
    batches = e.batches.epoch(0)
    began = 0.0
    for step in range(steps):
        if step == steps // 2:
            if e.runtime.device.type == "cuda":
                torch.cuda.synchronize(e.runtime.device)
            began = time.perf_counter()
        batch = e.augmented(next(batches))
        optimizer.zero_grad(set_to_none=True)
        with e.runtime.autocast():
            loss = e.policy.loss(batch, context)["total"]
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 0.001)
    if e.runtime.device.type == "cuda":
        torch.cuda.synchronize(e.runtime.device)
    return (time.perf_counter() - began) / (steps - steps // 2)


def measure(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Train one variant in this process, take it up once, and return its row."""
    from trainer.config.loader import load_located
    from trainer.engine.assemble import assemble
    from trainer.engine.build_data import build_data
    from trainer.engine.check import check
    from trainer.engine.fit import fit
    from trainer.runtime import connect

    steps = asked["steps"]
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, connect(asked["device"], asked["precision"]) as runtime:
        for end in (steps, 2 * steps):
            train = {
                "save_dir": f"{folder}/run",
                "max_steps": end,
                "parallel": asked["parallel"],
                "compile": {"enabled": asked["compile"]},
            }
            changes = {"precision": asked["precision"], "device": asked["device"], "train": train}
            checked = check(load_located(write_experiment(Path(folder), asked["kind"], changes)))
            data = build_data(checked)
            cost = Measure(runtime.device, steps)
            if runtime.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(runtime.device)
                torch.cuda.set_sync_debug_mode("warn")
            with (
                warnings.catch_warnings(record=True) as caught,
                assemble(checked, data, runtime, [cost]) as e,
            ):
                warnings.simplefilter("always")
                cost.watch(caught)
                begun = e.progress.iteration
                fit(e)
                if runtime.device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
                row["resumed at"] = begun
                if end == 2 * steps:
                    hand = by_hand(e, steps) if asked["parallel"] == "none" else float("nan")
        lines = [json.loads(one) for one in (Path(folder) / "run/metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if "samples_per_s" in line]
    row |= {
        "samples/s": told[-1]["samples_per_s"] if told else 64 / cost.seconds,
        "waiting": told[-1]["data_wait"] if told else float("nan"),
        "syncs": float(np.mean(cost.syncs)) if runtime.device.type == "cuda" else float("nan"),
        "memory": torch.cuda.max_memory_allocated() / 1e6 if runtime.device.type == "cuda" else float("nan"),
        "ms/step": 1e3 * cost.seconds,
        "by hand": cost.seconds / hand,
        "loss": lines[-1]["total"],
    }
    return row


def variants(quick: bool) -> Iterator[dict[str, Any]]:
    """Yield what is tried."""
    for kind in ("state", "image"):
        for precision in ("fp32",) if quick else ("fp32", "bf16"):
            for compiled in (False,) if quick else (False, True):
                for parallel in ("none", "ddp", "fsdp"):
                    if not (compiled and parallel != "none"):
                        yield {
                            "kind": kind,
                            "precision": precision,
                            "compile": compiled,
                            "parallel": parallel,
                        }


def main() -> None:
    """Measure every variant in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=200, help="updates before and after the run is taken up")
    parser.add_argument("--quick", action="store_true", help="fp32 without compile only")
    parser.add_argument("--one", help="measure this variant (JSON) here")
    asked = parser.parse_args()
    if asked.one:
        print("ROW " + json.dumps(measure(json.loads(asked.one))))
        return
    columns = ("samples/s", "waiting", "syncs", "memory", "ms/step", "by hand", "loss", "resumed at")
    print(f"torch {torch.__version__}, {asked.device}, {asked.steps} + {asked.steps} steps of 64 samples")
    head = ("kind", "precision", "compile", "parallel")
    print(" | ".join((*head, *columns)))
    failed = 0
    for variant in variants(asked.quick):
        one = json.dumps({**variant, "device": asked.device, "steps": asked.steps})
        command = [sys.executable, __file__, "--one", one]
        if variant["parallel"] != "none":
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
            command[1:1] = launcher
        environment = {**os.environ, "WANDB_MODE": "disabled"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        found = next((line[4:] for line in done.stdout.splitlines() if line.startswith("ROW ")), None)
        shown = [str(variant[name]) for name in head]
        if found is None:
            failed += 1
            print(
                " | ".join([*shown, "failed: " + (done.stderr.strip().splitlines() or ["nothing said"])[-1]])
            )
            print(done.stderr[-3000:], file=sys.stderr)
            continue
        row = json.loads(found)
        print(" | ".join([*shown, *(f"{row[name]:.4g}" for name in columns)]), flush=True)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
