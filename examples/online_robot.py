"""A robot of one's own that collects for a run that trains: here a simulator, in a process of its own.

Start a run without workers on a cluster, then this beside it, as often as there are robots:

    ray start --head
    python trainer/online_trainer.py --train_config X.yaml --address auto --set online.workers.count=0
    python examples/online_robot.py --address auto --env metaworld/push-v3 --name arm_1

For a robot, put its driver in the place of the simulator: what it measures in, what it does out. Who stands
beside it and takes over is here the simulator's expert, who loses patience after some steps.
"""

from __future__ import annotations

import itertools

import click
import numpy as np

from trainer.evaluation.demonstrations import ScriptedExpert
from trainer.evaluation.rollout import fit_cameras, picture_of
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.starts import start_seed_sequence
from trainer.online.robot import OnlineRobot
from trainer.registry import load_plugins
from trainer.templates import Simulator


def measure(simulator: Simulator, seen: dict[str, np.ndarray], robot: OnlineRobot) -> dict[str, np.ndarray]:
    """Return what the robot measures, with what its cameras see."""
    cameras = [name for name, column in robot.observations.items() if column.is_picture]
    return {**seen, **{name: picture_of(simulator, name, "the robot") for name in cameras}}


def play_episode(robot: OnlineRobot, simulator: Simulator, seed: int, patience: int | None) -> bool:
    """Play one episode, hand it in, and return whether it came to its goal.

    Args:
        robot: acts and records.
        simulator: stands for the hardware.
        seed: where the episode starts.
        patience: steps after which the person at the robot takes over; None: never.
    """
    seen, success = simulator.reset(seed), False
    for step in range(simulator.max_steps):
        takes_over = patience is not None and step >= patience and isinstance(simulator, ScriptedExpert)
        intervention = simulator.expert_action(seen) if takes_over else None
        action = robot.act(measure(simulator, seen, robot), intervention)
        seen, _, success, _, done = simulator.step(action)
        if success or done:
            break
    robot.end_episode(success)
    return success


@click.command()
@click.option("--address", default="auto", help="Ray cluster on which the run trains.")
@click.option("--namespace", help="Of the run, if it was given one.")
@click.option("--env", required=True, help="Simulator, such as metaworld/push-v3.")
@click.option("--plugin", "plugins", multiple=True, help="Module that registers a simulator of yours.")
@click.option("--name", default="robot", help="Of this robot; no two have one name.")
@click.option("--episodes", type=int, help="How many; without end if not given.")
@click.option("--patience", type=int, help="Steps after which the person takes over; never if not given.")
@click.option("--seed", default=0, help="Chooses the starts.")
def main(
    address: str,
    namespace: str | None,
    env: str,
    plugins: tuple[str, ...],
    name: str,
    episodes: int | None,
    patience: int | None,
    seed: int,
) -> None:
    """Collect episodes with a simulator as if it were a robot."""
    load_plugins(plugins)
    robot = OnlineRobot(name, address, namespace)
    simulator = make_simulator(env)
    fit_cameras(simulator, {n: c.shape[-1] for n, c in robot.observations.items() if c.is_picture})
    starts = start_seed_sequence(seed, "collection")
    for number, start in enumerate(itertools.islice(starts, episodes)):
        success = play_episode(robot, simulator, start, patience)
        click.echo(f"episode {number}: version {robot.version}, {'success' if success else 'no success'}")


if __name__ == "__main__":
    main()
