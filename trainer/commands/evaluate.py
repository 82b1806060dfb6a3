"""`trainer evaluate`: a checkpoint tried out in a simulator."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trainer.commands.errors import UserError, user_errors
from trainer.commands.experiments import run_folder


@click.command("evaluate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--env", required=True, help="Simulator and task, such as metaworld/pick-place-v3 or pusht.")
@click.option("--episodes", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Chooses the starts.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for results.json and the films.  [default: <run>/evaluations/<epoch>-<env>-seed<seed>]",
)
@click.option("--videos", type=click.IntRange(min=0), default=4, show_default=True, help="Episodes to film.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--n-action-steps",
    type=click.IntRange(min=1),
    help="Actions executed of each chunk.  [default: the policy's own number]",
)
@click.option("--dataset", help="Of a policy trained on several datasets, the one whose robot this is.")
def evaluate(
    checkpoint: Path,
    env: str,
    episodes: int,
    seed: int,
    out: Path | None,
    videos: int,
    device: str,
    n_action_steps: int | None,
    dataset: str | None,
) -> None:
    """Measure how often CHECKPOINT succeeds, on starts that no recording used.

    CHECKPOINT is a run folder, of which the latest checkpoint is taken, one of its epoch folders, its `best`,
    or the experiment YAML that was trained.
    """
    from trainer.checkpoint.folder import CheckpointError, find_checkpoint
    from trainer.deployment.robot_policy import DATASET, load_policy
    from trainer.evaluation.evaluate import evaluate as evaluate_policy

    try:
        with user_errors():
            folder = find_checkpoint(run_folder(checkpoint))
        policy = load_policy(folder, device=device, n_action_steps=n_action_steps, dataset=dataset)
        folder = folder.resolve()
        name = f"{folder.name}-{env.replace('/', '-')}-seed{seed}"
        target = out or folder.parent / "evaluations" / name
        recorded = json.loads((folder / DATASET).read_text(encoding="utf-8"))
        one = next((d for d in recorded.get("datasets", ()) if d["name"] == dataset), recorded)
        facts = one["features"]
        result = evaluate_policy(
            policy,
            env,
            episodes=episodes,
            seed=seed,
            out=target,
            videos=videos,
            checkpoint=str(folder),
            features={k: facts[k]["shape"] for k in (*policy.observation_windows, policy.action_key)},
        )
    except (CheckpointError, ValueError, OSError) as error:
        raise UserError(str(error)) from error
    for note in result.notes:
        click.echo(f"Note: {note}.", err=True)
    click.echo(result.summary())
    click.echo(f"Results and films: {target}")
