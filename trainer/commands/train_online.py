"""Training online on Ray: the learner's ranks, and beside them whoever collects."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.commands.train_on_ray import train_on_ray
from trainer.engine.check import CheckedConfig
from trainer.engine.exit_messages import Outcome
from trainer.online.actors import NAMESPACE
from trainer.online.team import Team
from trainer.online_trainer import attempt, check_online


def train_online(
    config_path: str | Path, overrides: Sequence[str] = (), *, namespace: str = NAMESPACE, **options: Any
) -> Outcome:
    """Train the experiment of a YAML file online; mistakes are found here, before a cluster is touched.

    Args:
        config_path: the experiment YAML, with an `online` section.
        overrides: `dotted.path=value` texts that win over the file.
        namespace: in which other processes of the cluster find the actors of this run.
        options: of `train_on_ray`.
    """
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
