"""Times the learner's step with collected samples in its batches against the same step offline.

`python benchmarks/online_step.py` records five demonstrations of Meta-World's push-v3, puts them into a
replay buffer on Ray as if robots had collected them, and trains the same experiment in turns: from the
dataset alone, and with half of every batch drawn from the buffer. Nothing else collects meanwhile. Prints the
median seconds of a step of each way and their ratio, which is 1 where drawing is hidden beside the step.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from trainer.evaluation.record import record

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "examples/configs/metaworld_push_online.yaml"
BATCH = 128


def seconds_per_step(run: Path) -> list[float]:
    """Return the mean seconds of a step in each logging window of a run but the first."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [line["samples_per_s"] for line in lines if "samples_per_s" in line][1:]
    return [BATCH / rate for rate in rates]


def main() -> None:
    """Train in turns, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    import ray

    from trainer.data.lerobot import LeRobotReader
    from trainer.offline_trainer import train
    from trainer.online.actors import MANAGER, NAMESPACE, REPLAY, find_actor, lasting_actor
    from trainer.online.replay import ReplayBuffer
    from trainer.online.state_manager import PolicyStateManagerActor
    from trainer.online_trainer import train_func

    ray.init(address="local", namespace=NAMESPACE, num_cpus=2, include_dashboard=False, log_to_driver=False)
    seconds: dict[str, list[float]] = {"offline": [], "online": []}
    with tempfile.TemporaryDirectory(prefix="online-step-") as name:
        folder = Path(name)
        record("metaworld/push-v3", 5, 0, folder / "set", progress=False)
        reader = LeRobotReader(folder / "set")
        columns = reader.columns(["observation.state", "action"], range(5))
        actors = [lasting_actor(REPLAY, ReplayBuffer).remote(folder / "online")]
        actors.append(lasting_actor(MANAGER, PolicyStateManagerActor).remote(folder / "online"))
        sets = [
            f"data.datamodule.params.root={folder / 'set'}",
            f"train.max_steps={arguments.steps}",
            "train.evaluation=null",
            "train.loggers=[]",
            "train.log_every_n_steps=20",
            f"data.batch_size={BATCH}",
            "online.workers.count=0",
            "online.offline_steps=0",
            "online.start_windows=1",
            "online.update_ratio=null",
            "online.publish.every_n_steps=100000",
        ]
        filled = False
        for turn in range(arguments.rounds):
            for way in ("offline", "online"):
                run = folder / f"{way}_{turn}"
                given: Any = [*sets, f"train.save_dir={run}"]
                if way == "online" and not filled:
                    filled = True
                    facts = _facts(CONFIG, given)
                    ray.get(find_actor(REPLAY).describe.remote(facts))
                    first = 0
                    for length in reader.episodes.length[:5]:
                        part = {key: value[first : first + length] for key, value in columns.items()}
                        ray.get(find_actor(REPLAY).add.remote({**part, "task": "push-v3"}))
                        first += int(length)
                with contextlib.redirect_stderr(io.StringIO()):
                    if way == "offline":
                        train(CONFIG, given)
                    else:
                        train_func({"config_path": str(CONFIG), "overrides": given})
                seconds[way] += seconds_per_step(run)
    ray.shutdown()
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    for way, median in medians.items():
        print(f"{way:<8} {median * 1000:.2f} ms a step (median of {len(seconds[way])} windows)")
    print(f"ratio    {medians['online'] / medians['offline']:.3f}")


def _facts(config: Path, overrides: list[str]) -> dict[str, Any]:
    from trainer.config.loader import load_located
    from trainer.engine.build_data import build_data
    from trainer.engine.check import check

    return build_data(check(load_located(config, overrides))).dataset.facts()


if __name__ == "__main__":
    main()
