"""Trains a policy on demonstrations and on what robots collect meanwhile, on a Ray cluster.

`python trainer/online_trainer.py --train_config X.yaml` starts or joins a cluster with everything on it. With
the actors `replay_buffer` and `policy_state_manager` running, `train_func` alone is a worker function of Ray
Train: `TorchTrainer(train_func, train_loop_config="X.yaml", …)`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Run as a file, this folder is first on the path and the project is not: put that right before our imports.
if __package__ in (None, ""):
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(p for p in sys.path if Path(p or ".").resolve() != here)]

import click

from trainer.checkpoint.lock import only_writer
from trainer.config.loader import load_located
from trainer.engine.assemble import assemble
from trainer.engine.build_data import build_data
from trainer.engine.check import CheckedConfig, check
from trainer.engine.evaluation import EvaluationCallback
from trainer.engine.exit_messages import Outcome
from trainer.engine.fit import fit
from trainer.engine.stop import stop_before_training
from trainer.offline_trainer import attempted, is_final, tell_where_it_begins, where_to_run
from trainer.online.actors import NAMESPACE
from trainer.online.learner import Learner
from trainer.online.team import Team
from trainer.ray_trainer import train_on_ray
from trainer.runtime import connect
from trainer.utils.log import let_nobody_listen, log


def train_func(config: str | Mapping[str, Any]) -> Path:
    """Train one rank of an online run, and return the run folder.

    The actors `replay_buffer` and `policy_state_manager` must be running, in the namespace of this job.

    Args:
        config: path of the experiment YAML; or a mapping with `config_path` and `overrides`.

    Raises:
        ConfigLoadError, ConfigError: the configuration is wrong; nothing was started or written.
        UsageError: an actor is not there, or its buffer holds episodes of another robot.
        Stopped: a signal came; the run is saved, or had not begun.
        RankLost: another rank is gone.
    """
    given = {"config_path": config} if isinstance(config, str) else config
    located = load_located(given["config_path"], given.get("overrides", ()))
    with connect(*where_to_run(located.data), is_final=is_final) as runtime:
        checked = check_online(check(located, runtime.world_size, runtime.local_rank))
        data = build_data(checked, runtime.world_size, runtime.local_rank)
        for warning in (*checked.warnings, *data.warnings):
            log.warning(warning)
        stop_before_training(runtime)
        learner = Learner(checked.config, data, runtime)
        evaluation = EvaluationCallback(checked.config.train.evaluation)
        with (
            only_writer(checked.run, runtime.is_main),
            assemble(checked, data, runtime, [evaluation, learner.publishing], learner.batches) as experiment,
        ):
            stop_before_training(runtime)
            tell_where_it_begins(experiment)
            fit(experiment)
    return checked.run


def check_online(checked: CheckedConfig) -> CheckedConfig:
    """Return a checked configuration that says how to train online.

    Raises:
        ConfigError: it does not.
    """
    issues = checked.issues.copy()
    if "online" not in issues.located.data:
        issues.add(("online",), "there is no online section, so there is nothing to collect", "add `online:`")
    issues.raise_if_any()
    return checked


def attempt(config_path: str | Path, overrides: Sequence[str] = ()) -> Outcome:
    """Train as one rank, and return what the user has to know of the end; see `offline_trainer.attempt`."""
    return attempted(
        lambda: train_func({"config_path": str(config_path), "overrides": list(overrides)}),
        config_path,
        overrides,
    )


def train_online(
    config_path: str | Path, overrides: Sequence[str] = (), *, namespace: str = NAMESPACE, **options: Any
) -> Outcome:
    """Train the experiment of a YAML file online; mistakes are found here, before a cluster is touched.

    Args:
        config_path: the experiment YAML, with an `online` section.
        overrides: `dotted.path=value` texts that win over the file.
        namespace: in which other processes of the cluster find the actors of this run.
        options: of `trainer.ray_trainer.train_on_ray`.
    """
    # Run as a file, this module is not the one that workers import.
    from trainer.online_trainer import attempt

    prepare = functools.partial(_beside, namespace=namespace)
    return train_on_ray(config_path, overrides, attempt=attempt, prepare=prepare, **options)


def _beside(checked: CheckedConfig, fields: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Return the fields of the job with whoever collects beside the learner, who leaves them a core each."""
    config = check_online(checked).config
    assert config.online is not None
    cores, ranks = os.cpu_count() or 1, fields["num_workers"]
    if fields["address"] is None and fields["cpus_per_worker"] is None:
        fields["cpus_per_worker"] = max(1, (cores - config.online.workers.count) // ranks)
    return {
        **fields,
        "namespace": namespace,
        "resources": config.online.placement.learner,
        "beside": lambda: Team(config, checked.run),
    }


def run(config_path: str | Path, overrides: Sequence[str] = (), **options: Any) -> None:
    """Train online, say how it ended, and exit accordingly.

    Args:
        config_path: the experiment YAML.
        overrides: `dotted.path=value` texts that win over the file.
        options: of `train_online`.
    """
    let_nobody_listen()
    train_online(config_path, overrides, **options).tell()


@click.command()
@click.option("--train_config", "config", required=True, type=click.Path(), help="Experiment YAML.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the YAML.")
@click.option("--num-workers", type=click.IntRange(min=1), default=1, help="Ranks of the learner.")
@click.option("--address", help="A running cluster (auto, host:port, ray://host:port); else one is started.")
def main(config: str, overrides: tuple[str, ...], num_workers: int, address: str | None) -> None:
    """Train a policy on demonstrations and on what robots collect meanwhile."""
    run(config, overrides, num_workers=num_workers, address=address)


if __name__ == "__main__":
    main()
