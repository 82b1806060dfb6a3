"""Trains as the ranks of a Ray cluster: the same function in every worker, the same end for the user."""

from __future__ import annotations

import dataclasses
import os
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.config.loader import LocatedConfig, load_located
from trainer.config.paths import config_file
from trainer.engine.build_data import build_data
from trainer.engine.check import CheckedConfig, check
from trainer.engine.exit_messages import Outcome, user_message
from trainer.engine.run_folder import RAY_LAUNCH
from trainer.engine.stop import ask_to_stop
from trainer.offline_trainer import attempt, way_on
from trainer.runtime import RankLost, select_device
from trainer.runtime.ray.job import Interrupted, RayError, RayJob
from trainer.runtime.ray.launch import run_on_ray

Attempt = Callable[[str, Sequence[str]], Outcome]
Prepare = Callable[[CheckedConfig, dict[str, Any]], dict[str, Any]]


def train_on_ray(
    config_path: str | Path,
    overrides: Sequence[str] = (),
    *,
    attempt: Attempt = attempt,
    prepare: Prepare = lambda checked, fields: fields,
    num_workers: int = 1,
    address: str | None = None,
    max_failures: int = 3,
    cpus_per_worker: int | None = None,
) -> Outcome:
    """Train the experiment of a YAML file on Ray; mistakes are found here, before a cluster is touched.

    Args:
        config_path: the experiment YAML; every machine of the cluster finds it, the data and the run folder
            at the same paths.
        overrides: `dotted.path=value` texts that win over the file.
        attempt: what a rank does, a function of an importable module.
        prepare: returns the fields of the job, from those of offline training.
        num_workers: number of ranks.
        address: `auto`, `host:port` or `ray://host:port`; None starts a cluster on this machine.
        max_failures: how often a lost rank is made good by going on from the last checkpoint.
        cpus_per_worker: CPU cores of a rank, and its threads.
    """
    path = config_file(config_path).absolute()
    try:
        located = load_located(path, overrides)
        device = str(located.data.get("device", "auto"))
        here = _checked_here(located, path, overrides, device)
        checked = check(here, num_workers)
        build_data(checked, num_workers)
        fields: dict[str, Any] = {
            "work": _work,
            "argument": (attempt, str(path), list(overrides), uuid.uuid4().hex),
            "ask_to_stop": ask_to_stop,
            "num_workers": num_workers,
            "address": address,
            "max_failures": max_failures,
            "cpus_per_worker": cpus_per_worker,
            "use_gpu": None if device == "auto" else device.startswith("cuda"),
            "environment": _variables(located),
        }
        job = RayJob(**prepare(checked, fields))
        return Outcome(**run_on_ray(job))
    except Interrupted as stop:
        text = str(stop)
        return Outcome(128 + stop.number, f"{text[0].upper()}{text[1:]}.")
    except RankLost as lost:
        tries = "" if max_failures == 0 else f" Given up after starting again {max_failures} times."
        text = f"Error: {lost}.{tries} {way_on(path, overrides, 'the last checkpoint')}."
        return Outcome(1, text)
    except RayError as error:
        return Outcome(2, f"Error: {error}")
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        return Outcome(2, f"Error: {message}")


def _work(argument: tuple[Attempt, str, list[str], str]) -> dict[str, Any]:
    """Train as one rank; an error that would come again is an outcome, others are raised and tried again."""
    attempt, path, overrides, os.environ[RAY_LAUNCH] = argument
    return dataclasses.asdict(attempt(path, overrides))


def _checked_here(located: LocatedConfig, path: Path, overrides: Sequence[str], device: str) -> LocatedConfig:
    """Return the configuration to check where the GPUs of the cluster may not be."""
    try:
        select_device(device)
    except ValueError:
        if re.fullmatch(r"cuda(:\d+)?", device):
            return load_located(path, [*overrides, "device=cpu"])
    return located


def _variables(located: LocatedConfig) -> list[str]:
    """Return the environment variables that the configuration speaks of."""
    texts = [Path(file).read_text(encoding="utf-8") for file in located.chains if os.path.isfile(file)]
    return sorted(set(re.findall(r"\$\{env:\s*(\w+)", "\n".join(texts))))
