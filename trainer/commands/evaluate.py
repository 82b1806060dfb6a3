"""`trainer evaluate`: a checkpoint tried out in a simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trainer.commands.errors import UserError, user_errors
from trainer.commands.experiments import import_plugins, run_folder
from trainer.commands.options import overrides_option


@click.command("evaluate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--env", required=True, help="Simulator and task, such as metaworld/pick-place-v3 or pusht.")
@click.option("--episodes", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Chooses the starts.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for results.json and the films.  [default: in <run>/evaluations, named by what is asked]",
)
@click.option("--videos", type=click.IntRange(min=0), default=4, show_default=True, help="Episodes to film.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--n-action-steps",
    type=click.IntRange(min=1),
    help="Actions executed of each chunk.  [default: the policy's own number]",
)
@click.option(
    "--temporal-ensembling",
    metavar="M",
    callback=lambda _, __, value: _decay(value),
    help="Average overlapping chunks, prediction i from the oldest weighing exp(−M·i); `off` for none.  "
    "[default: as trained]",
)
@click.option("--dataset", help="Of a policy trained on several datasets, the one whose robot this is.")
@click.option(
    "--trust",
    multiple=True,
    metavar="PACKAGE",
    help="A package of your own from which the checkpoint may take plugins and model code.",
)
@overrides_option
@click.option(
    "--json", "for_programs", is_flag=True, help="Print JSON: what results.json holds, and its `folder`."
)
def evaluate(
    checkpoint: Path,
    env: str,
    episodes: int,
    seed: int,
    out: Path | None,
    videos: int,
    device: str,
    n_action_steps: int | None,
    temporal_ensembling: float | bool | None,
    dataset: str | None,
    trust: tuple[str, ...],
    overrides: tuple[str, ...],
    for_programs: bool,
) -> None:
    """Measure how often CHECKPOINT succeeds, on starts that no recording used.

    CHECKPOINT is a run folder, of which the latest checkpoint is taken, one of its epoch folders, its `best`,
    or the experiment YAML that was trained. Plugins of the YAML are imported; a run folder may come from
    elsewhere and takes those that are shipped, installed or named by --trust.

    \b
    Example:
      trainer evaluate runs/pusht --env pusht --episodes 500
    """
    from trainer.checkpoint.folder import find_checkpoint
    from trainer.checkpoint.names import DATASET
    from trainer.deployment.robot_policy import load_policy
    from trainer.evaluation.evaluate import evaluate as evaluate_policy

    with user_errors():
        folder = find_checkpoint(run_folder(checkpoint, overrides)).resolve()
        import_plugins(checkpoint, trust, overrides)
        _check_dataset(json.loads((folder / DATASET).read_text(encoding="utf-8")), dataset)
        policy = load_policy(
            folder,
            device=device,
            n_action_steps=n_action_steps,
            dataset=dataset,
            trust=trust,
            temporal_ensembling=temporal_ensembling,
        )
        what = {
            "env": env,
            "checkpoint": str(folder),
            "seed": seed,
            "n_action_steps": policy.n_action_steps,
            "temporal_ensembling": policy.temporal_ensembling,
            "dataset": dataset,
        }
        target = out or folder.parent / "evaluations" / _name(folder.name, what, episodes, n_action_steps)
        _keep_what_was_measured(target, what, episodes)
        result = evaluate_policy(
            policy,
            env,
            episodes=episodes,
            seed=seed,
            out=target,
            videos=videos,
            checkpoint=str(folder),
            features=policy.shapes,
            dataset=dataset,
        )
    for note in result.notes:
        click.echo(f"Note: {note}.", err=True)
    if for_programs:
        click.echo(json.dumps({**result.to_dict(), "folder": str(target)}, indent=2, ensure_ascii=False))
        return
    click.echo(result.summary())
    click.echo(f"Results and films: {target}")


def _decay(value: str | None) -> float | bool | None:
    """Return what `load_policy` takes of `--temporal-ensembling`."""
    if value is None or value == "off":
        return None if value is None else False
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value} is neither a number nor `off`") from None


def _check_dataset(recorded: dict[str, Any], dataset: str | None) -> None:
    """Refuse the name of a dataset that is not one of those that were mixed."""
    named = [one["name"] for one in recorded.get("datasets", ())]
    if dataset is not None and dataset not in named:
        known = ", ".join(named) or "one dataset only, and needs no --dataset"
        raise UserError(f"there is no dataset '{dataset}'; the policy was trained on {known}")


def _name(checkpoint: str, what: dict[str, Any], episodes: int, n_action_steps: int | None) -> str:
    """Return the name of a folder that tells an evaluation from every other one."""
    words = [checkpoint, what["env"].replace("/", "-"), f"seed{what['seed']}", f"{episodes}episodes"]
    words += [f"{n_action_steps}actions"] if n_action_steps is not None else []
    m = what["temporal_ensembling"]
    words += [f"ensembling{m:g}"] if m is not None else []
    words += [what["dataset"]] if what["dataset"] is not None else []
    return "-".join(words)


def _keep_what_was_measured(folder: Path, what: dict[str, Any], episodes: int) -> None:
    """Refuse to write over the result of another evaluation; the same one may be made again."""
    try:
        there = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    here = {**what, "episodes": episodes}
    there = {**there, "episodes": len(there.get("episodes", ()))}
    for name, value in here.items():
        if there.get(name) != value:
            raise UserError(
                f"{folder} holds another evaluation ({name.replace('_', ' ')} {there.get(name)} instead of "
                f"{value}); choose another --out"
            )
