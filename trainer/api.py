"""What a notebook uses: training, datasets, models, policies and evaluation as functions.

Everything here is also a name of the package: `import trainer; trainer.train("x.yaml", ["train.epoch=1"])`.
Overrides are `dotted.path=value` texts or a mapping of dotted paths to values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from trainer import offline_trainer
from trainer.config import load_config, validate_config
from trainer.config.loader import Overrides, load_located, override_texts
from trainer.data.batch_path import BatchPath
from trainer.data.batches import BatchesFactory
from trainer.data.columns import pictures_of
from trainer.data.loader import BatchLoader
from trainer.deployment.deployed_policy import DeployedPolicy
from trainer.deployment.robot_policy import load_policy
from trainer.engine import build_data as data_building
from trainer.engine.build_data import Data
from trainer.engine.check import check
from trainer.engine.parts import untrained
from trainer.evaluation import evaluate as evaluation
from trainer.evaluation.result import EvaluationResult
from trainer.runtime import Runtime, select_device
from trainer.templates import Callback, Objective, RobotPolicy

__all__ = [
    "build_data",
    "build_models",
    "build_policy",
    "evaluate",
    "example_batch",
    "load_config",
    "load_policy",
    "train",
    "validate_config",
]


def train(
    config: str | Path,
    overrides: Overrides = (),
    callbacks: Sequence[Callback] = (),
    batches: BatchesFactory | None = None,
) -> Path:
    """Train the experiment of a YAML file, or go on with it, and return its run folder.

    Args:
        config: the experiment YAML.
        overrides: what wins over the file.
        callbacks: objects that run beside those of the file, before them.
        batches: makes the source of batches from that of the demonstrations, the path of a raw batch and the
            runtime; the demonstrations alone if not given.

    Raises:
        ConfigLoadError, ConfigError: the configuration is wrong; nothing was started or written.
        Stopped: a signal came (Ctrl-C, the stop button of a notebook); the run is saved, and the same call
            goes on with it.
    """
    return offline_trainer.train(config, override_texts(overrides), callbacks, batches)


def build_data(config: str | Path, overrides: Overrides = ()) -> Data:
    """Build the dataset of an experiment, and nothing else of it.

    Returns:
        `dataset` (a torch Dataset: `len`, `[i]`), `held_out` (the validation episodes, or None), `norm_stats`
        and `normalizer`, as training would have them in one process.

    Raises:
        ConfigLoadError, ConfigError: every mistake of the configuration and of the data, with its place.
    """
    return data_building.build_data(check(load_located(config, overrides)))


def example_batch(
    config: str | Path, overrides: Overrides = (), *, samples: int = 2, device: str = "cpu"
) -> dict[str, Any]:
    """Return the first samples of an experiment's dataset as its policy would get them.

    Args:
        config: the experiment YAML.
        overrides: what wins over the file.
        samples: their number (B).
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        Feature → tensor `(B, …)`: normalized, float32, camera frames as floats in [0, 1], not augmented.

    Raises:
        ConfigLoadError, ConfigError: what is wrong, and where.
        ValueError: there are not so many samples, or `samples` is less than 1.
    """
    data = build_data(config, overrides)
    path = BatchPath(data.normalizer, select_device(device), pictures_of(data.dataset))
    return BatchLoader(data.dataset, batch_size=samples, path=path).example(samples)


def build_models(config: str | Path, overrides: Overrides = (), *, device: str = "cpu") -> nn.ModuleDict:
    """Build the components of an experiment with the weights that its training would begin with.

    Args:
        config: the experiment YAML; its dataset is not opened.
        overrides: what wins over the file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        Component → `GraphModel`, in the order of `model.component_config_paths`.

    Raises:
        ConfigLoadError, ConfigError: what is wrong, and where.
    """
    components, _ = untrained(check(load_located(config, overrides)), Runtime(select_device(device)))
    return components.called


def build_policy(config: str | Path, overrides: Overrides = (), *, device: str = "cpu") -> Objective:
    """Build the policy of an experiment, untrained: `loss(batch, context)`, `predict_action(…)`.

    Args:
        config: the experiment YAML; its dataset is not opened.
        overrides: what wins over the file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigLoadError, ConfigError: what is wrong, and where; also for a trainer that names no policy.
    """
    checked = check(load_located(config, overrides))
    _, policy = untrained(checked, Runtime(select_device(device)))
    if policy is None:
        kind = checked.config.train.trainer.type
        message = f"trainer '{kind}' names no policy_class, so there is no policy to build"
        raise checked.mistake(("train", "trainer"), message)
    return policy


def evaluate(
    policy: RobotPolicy | str | Path,
    env: str,
    *,
    episodes: int = 20,
    seed: int = 0,
    out: str | Path | None = None,
    videos: int = 4,
    max_steps: int | None = None,
    lockstep: int = 50,
    progress: bool = True,
    device: str = "auto",
    n_action_steps: int | None = None,
    trust: Sequence[str] = (),
) -> EvaluationResult:
    """Try a policy out on starts that no recording used.

    Args:
        policy: a run folder, a checkpoint folder, or a policy: raw observations in, raw actions out.
        env: simulator and task, such as `pusht` or `metaworld/pick-place-v3`.
        episodes: number of starts; 20 are too few to rank policies.
        seed: chooses the starts.
        out: folder for `results.json` and the films; None writes nothing.
        videos: episodes that are filmed, where there is a folder.
        max_steps: the longest an episode may take; the simulator's own limit if not given.
        lockstep: episodes that are played at once, with one call of the policy per step.
        progress: show a progress bar.
        device: where a policy that is loaded computes.
        n_action_steps: actions executed of each chunk, of a policy that is loaded.
        trust: packages of your own that its checkpoint may name.

    Returns:
        `success_rate`, `success_interval`, `mean_score`, …; `print(result.summary())`.

    Raises:
        CheckpointError: there is no whole checkpoint in the folder.
        UsageError: the simulator is not there, or is not the policy's.
    """
    checkpoint = None
    if isinstance(policy, str | Path):
        checkpoint = str(policy)
        policy = load_policy(policy, device, n_action_steps=n_action_steps, trust=trust)
    return evaluation.evaluate(
        policy,
        env,
        episodes=episodes,
        seed=seed,
        out=None if out is None else Path(out),
        videos=videos,
        lockstep=lockstep,
        max_steps=max_steps,
        progress=progress,
        checkpoint=checkpoint,
        features=policy.shapes if isinstance(policy, DeployedPolicy) else None,
    )
