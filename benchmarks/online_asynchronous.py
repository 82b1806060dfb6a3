"""Times collecting beside training against collecting and training in turns: updates per minute.

`python benchmarks/online_asynchronous.py --rounds 5` records five demonstrations of Meta-World's push-v3,
starts a Ray cluster on this machine with one rollout worker, and trains
`examples/configs/metaworld_push_online.yaml` again and again, in turns in two ways that differ in
`online.update_slack` alone. With 1 each waits for the other: the robots play a round of episodes, the learner
makes the updates that these ask for, and so on. With as many updates as a round asks for, they work side by
side. Either way the steps per update are those of `online.update_ratio`, but for a round at the end.

Timed is from the first published weights, with which the robots begin, to the last update. Prints each run,
the quartiles of both ways and of their ratios, and the ratio that can be had at most on this machine: with a
core for each side the longer part of a turn is what is left of it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from trainer.evaluation.record import record

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "examples/configs/metaworld_push_online.yaml"
WAYS = ("in turns", "side by side")
PUBLISH = 25
_LOOK_SECONDS = 0.1


class Watch:
    """Notes when the first and the last version were published, and how long the robots were waiting.

    Args:
        manager: the policy state manager; its methods return their results.
        worker: the rollout worker, likewise.
        last: the number of the last version.
    """

    def __init__(self, manager: Any, worker: Any, last: int) -> None:
        self._manager, self._worker, self._last = manager, worker, last
        self._waited = self._looks = 0
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def ended(self) -> tuple[float, float]:
        """Return the seconds between the two, and the share of them in which the robots waited."""
        self._thread.join()
        return self.seconds, self._waited / max(1, self._looks)

    def _look(self) -> None:
        began = None
        while (version := self._manager.version()) < self._last:
            if began is None and version > 0:
                began = time.monotonic()
            if began is not None:
                self._looks += 1
                self._waited += self._worker.report().waiting is not None
            time.sleep(_LOOK_SECONDS)
        assert began is not None
        self.seconds = time.monotonic() - began


def one_run(folder: Path, sets: list[str], updates: int) -> dict[str, float]:
    """Train once with actors of its own, and return updates per minute and what was collected for them."""
    import ray

    from trainer.config.loader import load_located
    from trainer.engine.check import check
    from trainer.online.actors import MANAGER, REPLAY, lasting_actor
    from trainer.online.remote import Remote
    from trainer.online.replay import ReplayBuffer
    from trainer.online.state_manager import PolicyStateManagerActor
    from trainer.online.worker import RolloutWorkerActor, WorkerSettings
    from trainer.online_trainer import train_func

    config = check(load_located(CONFIG, sets)).config
    assert config.online is not None
    flow = {"update_ratio": config.online.update_ratio, "update_slack": config.online.update_slack}
    settings = WorkerSettings.of(config, config.collecting_env or "")
    actors = [
        lasting_actor(REPLAY, ReplayBuffer).remote(folder / "online", start_windows=1, **flow),
        lasting_actor(MANAGER, PolicyStateManagerActor).remote(folder / "online"),
    ]
    actors.append(lasting_actor(settings.name, RolloutWorkerActor).remote(settings))
    replay, manager, worker = (Remote(a, "actor") for a in actors)
    running = actors[-1].run.remote()
    while worker.report().waiting is None:  # it waits for weights, so it is there
        time.sleep(0.1)
    watch = Watch(manager, worker, 1 + updates // PUBLISH)
    with contextlib.redirect_stderr(io.StringIO()):
        train_func({"config_path": str(CONFIG), "overrides": sets})
    seconds, waiting = watch.ended()
    collected = replay.counts().steps
    worker.stop()
    ray.get(running)
    for actor in actors:
        ray.kill(actor)
    return {
        "updates_per_minute": 60 * updates / seconds,
        "steps_per_update": collected / updates,
        "robots_waited": waiting,
        "load": os.getloadavg()[0],
    }


def quartiles(values: list[float]) -> str:
    """Return the median and the quartiles of values."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Train in turns, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of both ways")
    parser.add_argument("--updates", type=int, default=900, help=f"of a run, a multiple of {PUBLISH}")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="PATH=VALUE")
    arguments = parser.parse_args()
    # Learner and robots are alike to the machine, as where both are processes of Ray.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # Ray spells it so
    import ray
    import torch

    from trainer.config.loader import load_located
    from trainer.engine.check import check
    from trainer.online.actors import NAMESPACE
    from trainer.runtime.ray.cluster import import_ray

    # The learner leaves the worker a core, as in `trainer online`.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
    import_ray()
    ray.init(address="local", namespace=NAMESPACE, num_cpus=2, include_dashboard=False, log_to_driver=False)
    online = check(load_located(CONFIG, arguments.sets)).config.online
    assert online is not None
    assert online.update_ratio is not None
    assert online.workers.max_steps is not None
    of_a_round = round(online.update_ratio * online.workers.envs * online.workers.max_steps)
    slack = dict(zip(WAYS, (1, of_a_round), strict=True))
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="online-asynchronous-") as name:
        folder = Path(name)
        record("metaworld/push-v3", 5, 0, folder / "set", progress=False)
        for turn in range(arguments.rounds):
            for way in WAYS if turn % 2 == 0 else reversed(WAYS):
                run = folder / f"{way.replace(' ', '_')}_{turn}"
                sets = [
                    f"data.datamodule.params.root={folder / 'set'}",
                    f"train.save_dir={run}",
                    f"train.max_steps={arguments.updates}",
                    "train.evaluation=null",
                    "train.loggers=[]",
                    "online.offline_steps=0",
                    "online.start_windows=1",
                    f"online.publish.every_n_steps={PUBLISH}",
                    f"online.update_slack={slack[way]}",
                    *arguments.sets,
                ]
                found[way].append(one_run(run, sets, arguments.updates))
                print(json.dumps({"way": way, **found[way][-1]}), flush=True)
    ray.shutdown()
    for way, runs in found.items():
        print(f"{way:<13} {quartiles([run['updates_per_minute'] for run in runs])} updates a minute")
    pairs = zip(found["side by side"], found["in turns"], strict=True)
    ratios = [one["updates_per_minute"] / other["updates_per_minute"] for one, other in pairs]
    print(f"ratio         {quartiles(ratios)}")
    shares = [max(run["robots_waited"], 1 - run["robots_waited"]) for run in found["in turns"]]
    print(f"at most       {quartiles([1 / share for share in shares])}, the longer part of a turn being all")


if __name__ == "__main__":
    main()
