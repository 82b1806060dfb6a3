"""From a checkpoint to a policy that a robot can use."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from model_constructor import ConfigError, only_trusted

from trainer.checkpoint.folder import CheckpointError, find_checkpoint, load_tensors, read_manifest
from trainer.checkpoint.names import CONFIG, DATASET, MODELS, OWN_STATE, STATS
from trainer.config.paths import expanded
from trainer.config.schemas import ComponentSpec, TemporalEnsemblingConfig
from trainer.data.normalization import Normalizer
from trainer.data.stats_file import load_stats
from trainer.deployment.deployed_policy import DeployedPolicy
from trainer.deployment.policy_parts import (
    OWN,
    Weights,
    build_loss,
    build_models,
    build_policy,
    converted,
    load_component,
    load_own_state,
    load_weights,
)
from trainer.registry import TRAINER_REGISTRY, PluginError, load_plugins, load_trusted_plugins
from trainer.runtime import select_device
from trainer.templates import Policy


def robot_facts(facts: Mapping[str, Any], dataset: str | None = None) -> dict[str, Any]:
    """Return what a dataset says of itself, of a mixture that of the robot's: the first one if not named."""
    own = [one for one in facts.get("datasets", ()) if dataset in (None, one["name"])]
    return {**own[0], "reads": facts.get("reads")} if own else dict(facts)


def load_policy(
    checkpoint_dir: str | Path,
    device: str = "auto",
    n_action_steps: int | None = None,
    dataset: str | None = None,
    trust: Sequence[str] = (),
    temporal_ensembling: float | bool | None = None,
) -> DeployedPolicy:
    """Load a trained policy from a checkpoint folder, or the latest one of a run folder.

    The folder holds everything: configuration, model YAMLs, statistics, weights. Only the plugins that the
    configuration names must be importable. Nothing in the folder decides what code runs: plugins are those
    that are shipped, installed (entry point `trainer.plugins`), imported already or trusted, and model YAMLs
    run no code of others.

    Args:
        checkpoint_dir: `<save_dir>/epoch_<N>` or `<save_dir>`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        n_action_steps: actions executed of each chunk; the policy's own number if not given. Given, it
            overrules a temporal ensembling of the configuration.
        dataset: of a policy trained on several datasets, the one whose robot this is; the first if not given.
        trust: packages of the caller's own, from which the checkpoint may name plugins and model code.
        temporal_ensembling: average overlapping chunks: m, the decay of the weights exp(−m · i) from the
            oldest prediction on; True for the m of the configuration (0.01), False for none; if not given,
            what `train.temporal_ensembling` of the configuration says.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete or damaged, or asks for code without trust.
        ValueError: the policy was trained on no such dataset.
    """
    folder = find_checkpoint(expanded(checkpoint_dir))
    read_manifest(folder)
    return policy_from(folder, {}, device, n_action_steps, dataset, trust, temporal_ensembling)


def policy_from(
    folder: Path,
    weights: Weights,
    device: str = "auto",
    n_action_steps: int | None = None,
    dataset: str | None = None,
    trust: Sequence[str] | None = (),
    temporal_ensembling: float | bool | None = None,
) -> DeployedPolicy:
    """Build a policy from the files of a checkpoint, and weights that may come from elsewhere.

    Args:
        folder: the files; of components whose weights are given, only the model YAML.
        weights: component → its state; those that are missing are read from the folder. `OWN` names the state
            that the policy has beside its components.
        device: see `load_policy`.
        n_action_steps: likewise.
        dataset: likewise.
        trust: likewise; None trusts whatever the files name, because they come from a run of one's own.
        temporal_ensembling: likewise.

    Raises:
        CheckpointError: files or weights do not fit, or ask for code without trust.
        ValueError: the policy was trained on no such dataset.
    """
    config: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    facts = json.loads((folder / DATASET).read_text(encoding="utf-8"))
    try:
        if trust is None:
            load_plugins(config["plugins"])
        else:
            load_trusted_plugins(config["plugins"], trust)
    except PluginError as error:
        raise CheckpointError(f"{folder} needs a module that is not here: {error}") from error
    names = list(config["model"]["component_config_paths"])
    chosen = select_device(device)
    try:
        with contextlib.nullcontext() if trust is None else only_trusted(trust):
            models = build_models({n: folder / MODELS / f"{n}.yaml" for n in names}, pretrained=False)
    except ConfigError as error:
        raise CheckpointError(f"a model of {folder} cannot be built: {error}") from error
    for name in names:
        if name not in weights:
            load_component(models[name], folder / f"{name}.pt")
    models.requires_grad_(False).eval().to(chosen)
    trainer_spec = config["train"]["trainer"]
    trainer_class = TRAINER_REGISTRY.get(trainer_spec["type"])
    policy_class = getattr(trainer_class, "policy_class", None)
    if policy_class is None or not issubclass(policy_class, Policy):
        what = (
            "names no policy_class" if policy_class is None else f"trains {policy_class.__name__}, no policy"
        )
        raise CheckpointError(f"trainer '{trainer_spec['type']}' {what}, so {folder} cannot act")
    params = converted(trainer_class, trainer_spec)
    policy: Policy = build_policy(policy_class, models, build_loss(_loss_spec(config)), params)
    policy.to(chosen).eval()
    if OWN not in weights and (folder / OWN_STATE).exists():
        load_own_state(policy, models, load_tensors(folder / OWN_STATE))
    load_weights(policy, models, weights)
    stats = load_stats(folder / STATS) if (folder / STATS).exists() else {}
    normalizer = Normalizer(stats, config["data"]["normalization"]).for_dataset(dataset)
    configured = TemporalEnsemblingConfig.model_validate(config["train"].get("temporal_ensembling") or {})
    m = configured.m if temporal_ensembling is True else temporal_ensembling
    if m is None and configured.enabled and n_action_steps is None:
        m = configured.m
    return DeployedPolicy(
        policy,
        normalizer,
        robot_facts(facts, dataset),
        chosen,
        n_action_steps,
        temporal_ensembling=None if m is False else m,
        models=models,
    )


def _loss_spec(config: Mapping[str, Any]) -> ComponentSpec | None:
    spec = config["train"].get("loss")
    return None if spec is None else ComponentSpec.model_validate(spec)
