"""What the framework's loop costs beside one written by hand, in turns within one process.

`python benchmarks/framework_overhead.py` trains state flow-matching policies with the framework: `fit` with
AdamW and a schedule, clipping, weight average, metrics of every step on disk, guards, stop signals. After
every turn of so many steps a loop that knows nothing of all this trains the same networks, by turns from a
`BatchLoader` of its own and from batches that lie ready in memory, with the same optimizer, schedule,
clipping and average, and its losses kept on disk every ten steps. Nothing is saved or validated in between.
Prints JSON: milliseconds per step and the median ratio of neighbouring turns, in time and in the time that
the process has computed, which other work on the machine touches less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from state_experiment import ACTION, HORIZON, Size, write_experiment

from trainer.templates import Callback

SIZES = {
    "small": (Size(width=64, blocks=2, condition=64, batch=64, episodes=40), 50),
    "metaworld": (Size(width=256, blocks=4, condition=256, batch=256, episodes=40), 8),
    "pusht": (Size(width=640, blocks=4, condition=512, batch=256, episodes=40), 3),
}


class LoopByHand:
    """A training loop as one would write it for this one experiment.

    Args:
        folder: of the model YAMLs; `losses.jsonl` is written there.
        loader: where batches come from.
        ready: take this many batches of it into memory and use them again and again; 0: none.
        steps: updates of the whole training.
    """

    def __init__(self, folder: Path, loader: Any, ready: int, steps: int) -> None:
        import torch
        from model_constructor import build_model

        self.encoder = build_model(folder / "observation_encoder.yaml")
        self.decoder = build_model(folder / "velocity_decoder.yaml")
        self.groups = [list(m.parameters()) for m in (self.encoder, self.decoder)]
        self.optimizers = [torch.optim.AdamW(g, lr=1e-3, weight_decay=0.0, fused=True) for g in self.groups]
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(o, lambda s: 0.5 * (1 + math.cos(math.pi * s / steps)))
            for o in self.optimizers
        ]
        self.weights = [p.detach() for g in self.groups for p in g]
        self.average = [w.clone() for w in self.weights]
        self.log = (folder / f"losses_{ready}.jsonl").open("a", encoding="utf-8")
        self.losses: list[Any] = []
        endless = itertools.chain.from_iterable(loader.epoch(e) for e in itertools.count())
        self.batches: Iterator[Any] = endless
        if ready:
            self.batches = itertools.cycle([next(endless) for _ in range(ready)])

    def steps(self, number: int) -> None:
        """Make so many updates."""
        import torch

        self.encoder.train()
        self.decoder.train()
        for batch in itertools.islice(self.batches, number):
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            action = batch["action"]
            t = 1 - (1 - torch.rand(len(action))) ** (2 / 3)
            noise = torch.randn(action.shape)
            point = torch.lerp(noise, action, t[:, None, None])
            condition = self.encoder(state=batch["observation.state"])
            velocity = self.decoder(time=t, noise=point, condition=condition)
            valid = (~batch["action_is_pad"]).float()
            error = (velocity - (action - noise)).square().mean(-1)
            loss = ((error * valid).sum(1) / valid.sum(1)).mean()
            loss.backward()
            norms = [torch.nn.utils.clip_grad_norm_(group, 1.0) for group in self.groups]
            for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
                optimizer.step()
                schedule.step()
            torch._foreach_lerp_(self.average, self.weights, 0.01)
            self.losses.append(torch.stack([loss.detach(), *norms]))
            if len(self.losses) == 10:
                rows = torch.stack(self.losses).tolist()
                self.log.write("".join(json.dumps(row) + "\n" for row in rows))
                self.log.flush()
                self.losses.clear()


class Turns(Callback):
    """Lets loops written by hand train after every turn of the framework."""

    def __init__(self, by_hand: dict[str, LoopByHand], steps: int) -> None:
        self.by_hand, self.steps = by_hand, steps
        self.seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ("framework", *by_hand)}
        self._made = 0
        self.since = now()

    def after_step(self, experiment: Any, metrics: Any) -> None:
        """End the framework's turn when it has made its steps."""
        self._made += 1
        if self._made % self.steps:
            return
        self.seconds["framework"].append(passed(self.since))
        for name, loop in self.by_hand.items():
            started = now()
            loop.steps(self.steps)
            self.seconds[name].append(passed(started))
        self.since = now()


def now() -> tuple[float, float]:
    """Return the time, and the time that this process has computed."""
    return time.perf_counter(), time.process_time()


def passed(since: tuple[float, float]) -> tuple[float, float]:
    """Return what has passed of both."""
    wall, computed = now()
    return wall - since[0], computed - since[1]


def measure(name: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Return the times of a size, without those of the first round."""
    from trainer.config.loader import load_located
    from trainer.data.batch_path import BatchPath
    from trainer.data.loader import BatchLoader
    from trainer.engine.assemble import assemble
    from trainer.engine.build_data import build_data
    from trainer.engine.check import check
    from trainer.engine.fit import fit
    from trainer.runtime import connect

    size, steps = SIZES[name]
    total = (rounds + 1) * steps
    changes = {"train": {"epoch": None, "max_steps": total, "save_every": 10**6}}
    path = write_experiment(folder, size, changes)
    checked = check(load_located(path))
    data = build_data(checked)
    with connect("cpu") as runtime:
        with assemble(checked, data, runtime) as experiment:

            def loader() -> BatchLoader:
                batch_path = BatchPath(data.normalizer)
                return BatchLoader(data.dataset, batch_size=size.batch, path=batch_path, seed=7)

            turns = Turns(
                {
                    "by hand, same loader": LoopByHand(folder, loader(), 0, total),
                    "by hand, batches in memory": LoopByHand(folder, loader(), 16, total),
                },
                steps,
            )
            experiment.callbacks = [*experiment.callbacks, turns]
            turns.since = now()
            fit(experiment)
        parameters = sum(p.numel() for m in experiment.models.values() for p in m.parameters())
    seconds = {key: values[1:] for key, values in turns.seconds.items()}
    results: dict[str, Any] = {
        "size": name,
        "parameters": parameters,
        "batch": size.batch,
        "chunk": [HORIZON, ACTION],
        "steps_per_turn": steps,
        "rounds": rounds,
    }
    for which, what in enumerate(("wall", "computing")):
        turn = {key: [value[which] for value in values] for key, values in seconds.items()}
        ours = turn.pop("framework")
        ratios = {k: [a / b for a, b in zip(ours, v, strict=True)] for k, v in turn.items()}
        results[what] = {
            "ms_per_step": {
                k: round(1000 * statistics.median(v) / steps, 3)
                for k, v in {"framework": ours, **turn}.items()
            },
            "ratio": {k: round(statistics.median(v), 4) for k, v in ratios.items()},
            "quartiles": {
                k: [round(q, 4) for q in statistics.quantiles(v, n=4)[::2]] for k, v in ratios.items()
            },
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"

    import torch

    torch.set_num_threads(arguments.threads)
    results = []
    before = os.getloadavg()
    for name in arguments.sizes:
        with tempfile.TemporaryDirectory(prefix="overhead.") as folder:
            results.append(measure(name, arguments.rounds, Path(folder)))
    facts = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": arguments.threads,
        "load_before": before,
        "load_after": os.getloadavg(),
    }
    print(json.dumps({**facts, "results": results}, indent=2))


if __name__ == "__main__":
    main()
