"""What it costs to publish a version of the weights, beside bare Ray with the same arrays.

`python benchmarks/publish_weights.py` starts a Ray cluster of its own. By turns a policy of 100 M parameters
is published by its learner (the weights to deploy are taken, put, announced to the policy state manager) and
taken up by a robot in another process (the version is asked for, fetched, loaded into its policy), and the
same arrays go by `ray.put`, `ray.get` and `load_state_dict` between the same two processes. Prints JSON:
seconds of every turn, and the median of `published_over_bare`, the ratio within a turn.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import save_stall
import torch

from trainer.config.loader import load_located
from trainer.engine.assemble import assemble
from trainer.engine.build_data import build_data
from trainer.engine.check import check
from trainer.online.actors import MANAGER, NAMESPACE, find_actor
from trainer.online.current_policy import CurrentPolicy
from trainer.online.publisher import deployed_weights, policy_description
from trainer.online.remote import Remote
from trainer.online.state_manager import PolicyStateManagerActor
from trainer.online.weights import architecture_of, unpack
from trainer.runtime import connect
from trainer.runtime.ray.cluster import import_ray
from trainer.utils.versions import library_versions


class Robot:
    """A robot in a process of its own."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._current = CurrentPolicy(Remote(find_actor(MANAGER), MANAGER), "robot", "cpu")

    def take_up(self) -> int:
        """Take up the newest version, and return its number."""
        self._current.refresh()
        return self._current.version

    def take_bare(self, reference: list[Any]) -> None:
        """Fetch arrays and load them into the same modules."""
        import ray

        assert self._current.policy is not None
        models = self._current.policy.models
        assert models is not None
        for name, state in unpack(ray.get(reference[0])).items():
            models[name].load_state_dict(state)


def timed(work: Any) -> float:
    """Return the seconds that some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=1680)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.device, arguments.batch = "cpu", 8
    torch.set_num_threads(arguments.threads)
    ray = import_ray()
    here = Path(__file__).resolve().parent
    paths = os.pathsep.join(map(str, (here, here.parent, here.parent / "policy_constructor")))
    ray.init(
        address="local",
        num_cpus=2,
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=3 * 2**30,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    try:
        with tempfile.TemporaryDirectory(prefix="publish-weights-") as folder:
            print(json.dumps(measure(ray, Path(folder), arguments), indent=1))
    finally:
        ray.shutdown()


def measure(ray: Any, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and ratios."""
    located = load_located(save_stall.write_experiment(folder, arguments))
    manager = ray.remote(name=MANAGER, num_cpus=0)(PolicyStateManagerActor).remote(folder / "online")
    robot = ray.remote(num_cpus=0)(Robot).remote(arguments.threads)
    published, bare, moments, parts = [], [], [], []
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(connect("cpu"))
        checked = check(located)
        experiment = stack.enter_context(assemble(checked, build_data(checked), runtime))

        def publish(description: Any = None) -> None:
            moments.append(time.perf_counter())
            weights = deployed_weights(experiment, arguments.bf16)
            moments.append(time.perf_counter())
            sent = [ray.put(weights)]
            moments.append(time.perf_counter())
            architecture = architecture_of(weights)
            ray.get(manager.update_weights.remote(sent, architecture=architecture, description=description))
            moments.append(time.perf_counter())
            ray.get(robot.take_up.remote())
            moments.append(time.perf_counter())

        def put_and_load() -> None:
            ray.get(robot.take_bare.remote([ray.put(arrays)]))

        publish(policy_description(experiment))
        arrays = deployed_weights(experiment)
        count = sum(a.size for state in arrays.values() for a in state.values())
        for _ in range(arguments.rounds):
            ray.get(manager.flush.remote())  # what is written beside belongs to no turn
            bare.append(timed(put_and_load))
            moments.clear()
            published.append(timed(publish))
            parts.append([after - before for before, after in itertools.pairwise(moments)])
    ratios = [ours / theirs for ours, theirs in zip(published, bare, strict=True)]
    return {
        "parameters": count,
        "bf16": arguments.bf16,
        "published_s": [round(s, 3) for s in published],
        "bare_s": [round(s, 3) for s in bare],
        "weights_put_announced_taken_up_s": [[round(s, 3) for s in one] for one in parts],
        "published_over_bare": round(statistics.median(ratios), 3),
        "quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)],
        "versions": {**library_versions(), "ray": ray.__version__},
    }


if __name__ == "__main__":
    main()
