"""Trains a policy from demonstrations: one process, or one of several ranks.

`python trainer/offline_trainer.py --train_config X.yaml`, and the same after `torchrun --nproc_per_node=2`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Run as a file, this folder is first on the path and the project is not: put that right before our imports.
if __package__ in (None, ""):
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(p for p in sys.path if Path(p or ".").resolve() != here)]

import click

from trainer.checkpoint.lock import only_writer
from trainer.config.loader import load_located
from trainer.data.batches import BatchesFactory
from trainer.engine.assemble import assemble
from trainer.engine.build_data import build_data
from trainer.engine.check import check
from trainer.engine.checkpoint_room import checkpoint_room
from trainer.engine.evaluation import EvaluationCallback
from trainer.engine.exit_messages import Outcome, user_message
from trainer.engine.experiment import Experiment
from trainer.engine.fit import fit
from trainer.engine.stop import Stopped, stop_before_training
from trainer.modeling.initialize import count_parameters
from trainer.runtime import (
    PRECISIONS,
    RankLost,
    connect,
    environment_rank,
    select_device,
)
from trainer.templates import Callback
from trainer.utils.log import let_nobody_listen, log
from trainer.utils.selection import select


def train(
    config_path: str | Path,
    overrides: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    batches: BatchesFactory | None = None,
) -> Path:
    """Train the experiment of a YAML file and return its run folder.

    Args:
        config_path: the experiment YAML.
        overrides: `dotted.path=value` texts that win over the file.
        callbacks: run beside those of the file, before them.
        batches: makes the source of batches from that of the demonstrations, the path of a raw batch and the
            runtime; the demonstrations alone if not given. Every rank calls it.

    Raises:
        ConfigLoadError, ConfigError: the configuration is wrong; nothing was started or written.
        Stopped: a signal came; the run is saved, or had not begun.
        RankLost: another rank is gone.
    """
    located = load_located(config_path, overrides)
    with connect(*where_to_run(located.data), is_final=is_final) as runtime:
        checked = check(located, runtime.world_size, runtime.local_rank, callbacks)
        data = build_data(checked, runtime.world_size, runtime.local_rank)
        for warning in (*checked.warnings, *data.warnings):
            log.warning(warning)
        stop_before_training(runtime)
        evaluation = EvaluationCallback(checked.config.train.evaluation)
        with (
            only_writer(checked.run, runtime.is_main),
            assemble(checked, data, runtime, [evaluation, *callbacks], batches) as experiment,
        ):
            stop_before_training(runtime)
            tell_where_it_begins(experiment)
            fit(experiment)
    return checked.run


def tell_where_it_begins(experiment: Experiment) -> None:
    """Say what is left of a run, and whether the disk has room for its checkpoints; at its end, only that."""
    run, iteration = experiment.run, experiment.progress.iteration
    if experiment.finished:
        log.info(already_done(run, iteration))
        return
    if iteration:
        log.info(f"Taking up {run} after step {iteration}.")
    sizes = {name: count_parameters(one.module) for name, one in experiment.components.items()}
    room = checkpoint_room(experiment.config, run, experiment.batches.steps_per_epoch, sizes)
    log.info(f"Checkpoints in {run}: {room.sentence()}.")
    warning = room.warning()
    if warning is not None:
        log.warning(warning)


def already_done(run: Path, iteration: int) -> str:
    """Say that a run needs no more updates, and how it would go on."""
    return (
        f"{run} is done already, after {iteration:,} updates, so there is nothing to train; raise "
        "train.epoch or train.max_steps to go on with it, or choose another save_dir."
    )


def where_to_run(raw: Mapping[str, object]) -> tuple[str, str]:
    """Return device and precision to connect with; what cannot be used is told by the check."""
    device, precision = raw.get("device", "auto"), raw.get("precision", "auto")
    try:
        select_device(str(device), int(os.environ.get("LOCAL_RANK", "0")))
    except ValueError:
        device = "cpu"
    return str(device), str(precision) if precision in PRECISIONS else "auto"


def is_final(error: BaseException) -> bool:
    """Say whether an error would come again if the ranks were started again."""
    return user_message(error) is not None


def attempt(config_path: str | Path, overrides: Sequence[str] = ()) -> Outcome:
    """Train, and return what the user has to know of the end; see `attempted`."""
    return attempted(lambda: train(config_path, overrides), config_path, overrides)


def attempted(training: Callable[[], Path], config_path: str | Path, overrides: Sequence[str]) -> Outcome:
    """Let a training run, and return what the user has to know of its end.

    Args:
        training: returns the run folder.
        config_path: its experiment YAML.
        overrides: `dotted.path=value` texts that win over the file.

    Raises:
        RankLost: another rank is gone, which may not happen again.
        Exception: whatever only a traceback explains.
    """
    main_rank = environment_rank() == 0
    try:
        folder = training()
    except Stopped as stopped:
        if stopped.before_training:
            text = f"{str(stopped)[0].upper()}{str(stopped)[1:]}, so nothing is lost."
        else:
            way = way_on(config_path, overrides, "there")
            text = f"Saved and {stopped}; {way[0].lower()}{way[1:]}."
        return Outcome(stopped.exit_code, text if main_rank else "")
    except RankLost as lost:
        if not lost.loss.final:
            raise
        return Outcome(2, f"Error: {lost}" if lost.say else "")
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        return Outcome(2, f"Error: {message}" if main_rank else "")
    return Outcome(0, f"Trained: {folder}" if main_rank else "")


def way_on(config_path: str | Path, overrides: Sequence[str], where: str) -> str:
    """Return how a user goes on with a run that has ended before its time."""
    asked = select(load_located(config_path, overrides).data, "train.checkpoint.resume_from", "auto")
    more = "" if asked == "auto" else " with --set train.checkpoint.resume_from=auto"
    return f"The same command{more} goes on from {where}"


def run(config_path: str | Path, overrides: Sequence[str] = ()) -> None:
    """Train, say how it ended, and exit accordingly."""
    let_nobody_listen()
    try:
        outcome = attempt(config_path, overrides)
    except RankLost as lost:
        outcome = Outcome(1, f"Error: {lost}" if lost.say else "")
    outcome.tell()


@click.command()
@click.option("--train_config", "config", required=True, type=click.Path(), help="Experiment YAML.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the YAML.")
def main(config: str, overrides: tuple[str, ...]) -> None:
    """Train a policy from the demonstrations that an experiment YAML names."""
    run(config, overrides)


if __name__ == "__main__":
    main()
