"""What a run folder says of its run beside checkpoints: configuration, models, dataset, statistics, facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.checkpoint.names import CONFIG, DATASET, MODELS, STATS
from trainer.data.stats_file import save_stats
from trainer.engine.build_data import Data
from trainer.engine.check import CheckedConfig
from trainer.engine.experiment import Experiment
from trainer.engine.resume import Change, resolved
from trainer.engine.run_folder import (
    environment_facts,
    flat_model,
    now,
    read_run_facts,
    write_run_facts,
    write_yaml,
)
from trainer.engine.tracking import BESIDE, METRICS, forget_from
from trainer.modeling.initialize import count_parameters
from trainer.utils.files import write_json


def describe_run(
    checked: CheckedConfig, data: Data, experiment: Experiment, total_steps: int, changes: Sequence[Change]
) -> None:
    """Write what describes the run before its next step; a finished run stays as it is.

    Args:
        checked: the experiment.
        data: what it trains on.
        experiment: as it stands before that step.
        total_steps: updates of the whole run.
        changes: the settings that are not those with which the checkpoint was made that it goes on from.
    """
    run, config, runtime = checked.run, checked.config, experiment.runtime
    (run / MODELS).mkdir(parents=True, exist_ok=True)
    known = read_run_facts(run)
    known_end = (known.get("iterations"), known.get("total_steps"))
    if known.get("finished") and known_end == (experiment.progress.iteration, total_steps):
        return
    forget_from(run / METRICS, experiment.progress.iteration)
    for file in BESIDE:
        forget_from(run / file, experiment.progress.iteration + (not experiment.saving.unmeasured))
    write_yaml(run / CONFIG, resolved(config))
    for name, path in checked.component_paths.items():
        write_yaml(run / MODELS / f"{name}.yaml", flat_model(path))
    write_json(run / DATASET, experiment.facts)
    if data.norm_stats:
        save_stats(run / STATS, data.norm_stats)
    components = []
    for name, component in experiment.components.items():
        total, trained = count_parameters(component.module)
        optimizer = config.optimizers.get(name)
        components.append(
            {
                "name": name,
                "yaml": config.model.component_config_paths[name],
                "parameters": total,
                "trainable": trained,
                "frozen": trained == 0,
                "optimizer": optimizer[1].type if optimizer else None,
            }
        )
    write_run_facts(
        run,
        {
            **environment_facts(),
            "started": known.get("started") or now(),
            "config_path": str(checked.located.path),
            "name": config.train.project_name,
            "seed": config.run_seed,
            "world_size": runtime.world_size,
            "device": str(runtime.device),
            "precision": runtime.precision,
            "components": components,
            "steps_per_epoch": experiment.batches.steps_per_epoch,
            "epochs": experiment.total_epochs,
            "total_steps": total_steps,
            "samples_per_step": experiment.batches.samples_per_update,
            "taken_up": _taken_up(known.get("taken_up"), experiment.progress.iteration, changes),
        },
    )


def _taken_up(known: Sequence[Any] | None, iteration: int, changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Return from which updates on a run had other settings, this one among them where it has."""
    settings = [{"setting": one.what, "before": one.before, "after": one.after} for one in changes]
    now = [{"iteration": iteration, "changes": settings}] if settings else []
    return [*(one for one in known or () if one["iteration"] < iteration), *now]
