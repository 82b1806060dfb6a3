"""From a checkpoint to a policy that a robot can use: raw observations in, raw actions out."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from model_constructor import ConfigError, only_trusted, random_source, without_pretrained_weights
from torch import Tensor, nn

from trainer.checkpoint.folder import (
    CheckpointError,
    check_fits,
    find_checkpoint,
    load_tensors,
    read_manifest,
)
from trainer.checkpoint.names import CONFIG, DATASET, MODELS, OWN_STATE, STATS
from trainer.config.parameters import FRAMEWORK_ARGUMENTS, convert_parameters, own_parameters, receivers
from trainer.config.paths import expanded
from trainer.config.schemas import ComponentSpec, TemporalEnsemblingConfig
from trainer.data.columns import ACTION, Column, Columns, from_facts, observations_of
from trainer.data.images import is_camera, scale_images
from trainer.data.measured import measured, window
from trainer.data.normalization import Normalizer
from trainer.data.stats_file import load_stats
from trainer.deployment.temporal_ensemble import TemporalEnsemble
from trainer.modeling.factories import PolicyConstructorModelFactory
from trainer.modeling.observations import PREFIX
from trainer.registry import (
    LOSS_BUILDER_REGISTRY,
    TRAINER_REGISTRY,
    PluginError,
    load_plugins,
    load_trusted_plugins,
)
from trainer.runtime import select_device
from trainer.templates import Context, Objective, Policy
from trainer.utils.errors import UsageError
from trainer.utils.random import RowRandom

Built = TypeVar("Built", bound=Objective)
Weights = Mapping[str, Mapping[str, Tensor]]
OWN = ""
"""Stands among components for the policy itself: the state that it has beside them."""


class DeployedPolicy:
    """A policy with everything around it that a robot needs.

    It keeps the observation history, normalizes, asks the policy for an action chunk, executes the first
    `n_action_steps` of it, and gives actions in the units of the dataset. With temporal ensembling it asks at
    every step and averages what all chunks say of the present action.

    Args:
        policy: the policy, on its device.
        normalizer: the normalization of the training run.
        facts: what the dataset of the robot says of itself: its `columns`, its `windows` (time offsets in
            frames, as in training), its `fps`, and which of the windows the policy `reads`.
        device: where the policy computes.
        n_action_steps: actions of a chunk that are executed before the next one is asked for.
        temporal_ensembling: m of `TemporalEnsemble`; None executes chunks one after the other.
        models: the components of the policy, where newer weights may come.

    Attributes:
        observations: what `act` must be given; feature → `trainer.data.columns.Column`.
        actions: what it returns, likewise; None if the dataset did not tell.
        temporal_ensembling: m, or None.
        fps: how often per second `act` is to be called, None if the dataset did not tell.
    """

    def __init__(
        self,
        policy: Any,
        normalizer: Normalizer,
        facts: Mapping[str, Any],
        device: torch.device,
        n_action_steps: int | None = None,
        temporal_ensembling: float | None = None,
        models: nn.ModuleDict | None = None,
    ) -> None:
        self.policy = policy
        self.models = models
        self.normalizer = normalizer
        self.device = device
        self.action_key = ACTION
        windows: Mapping[str, Sequence[int]] = facts["windows"]
        described = from_facts(facts)
        columns = {n: replace(c, normalization=normalizer.modes.get(n)) for n, c in (described or {}).items()}
        self.fps: float | None = facts.get("fps")
        # Checkpoints of earlier versions do not tell what is read, and a user's dataset need not tell
        # anything of its columns; then all that is called so is observed.
        offered = observations_of(columns) if columns else [k for k in windows if k.startswith(PREFIX)]
        reads = facts.get("reads")
        self.observation_windows = {
            k: tuple(o) for k, o in windows.items() if k in offered and (reads is None or k in reads)
        }
        self.observations: Columns = {k: columns[k] for k in self.observation_windows if k in columns}
        self.actions: Column | None = columns.get(ACTION)
        self._cameras = None if described is None else [n for n, c in columns.items() if c.is_picture]
        self._pictures = frozenset(
            self._cameras if self._cameras is not None else filter(is_camera, self.observation_windows)
        )
        offsets = list(windows[ACTION])
        self.stride = offsets[1] - offsets[0] if len(offsets) > 1 else 1
        self.first_action = offsets.index(0) if 0 in offsets else 0
        horizon = len(offsets) - self.first_action
        self.temporal_ensembling = temporal_ensembling
        self._ensemble = None if temporal_ensembling is None else TemporalEnsemble(temporal_ensembling)
        if self._ensemble is not None:
            if n_action_steps is not None:
                raise UsageError(
                    f"n_action_steps {n_action_steps} has no effect with temporal ensembling, which asks for "
                    "a chunk at every step; leave one of them out"
                )
            n_action_steps = 1
        chosen = n_action_steps or getattr(policy, "n_action_steps", None) or max(1, horizon // 2)
        if not 1 <= chosen <= horizon:
            raise UsageError(
                f"n_action_steps is {chosen}, but a chunk holds 1 to {horizon} actions from now on"
            )
        self.n_action_steps = int(chosen)
        self.memory = 1 + max((-min(o) for o in self.observation_windows.values()), default=0)
        self.reset()

    def reset(self, seeds: int | Sequence[int] = 0) -> None:
        """Begin an episode (one seed) or N in lockstep (N seeds); see `trainer.templates.RobotPolicy`."""
        self._single = isinstance(seeds, int)
        self._robots = 1 if isinstance(seeds, int) else len(seeds)
        self._random = RowRandom([seeds] if isinstance(seeds, int) else list(seeds), self.device)
        self._history: list[dict[str, np.ndarray]] = []
        self._plan: np.ndarray | None = None
        self._step = 0
        if self._ensemble is not None:
            self._ensemble.reset()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch only."""
        chosen = np.asarray(rows, dtype=np.int64)
        self._robots = len(chosen)
        self._random.keep(chosen.tolist())
        self._history = [{k: v[chosen] for k, v in frame.items()} for frame in self._history]
        if self._plan is not None:
            self._plan = self._plan[chosen]
        if self._ensemble is not None:
            self._ensemble.keep(chosen)

    @property
    def asks_next(self) -> bool:
        """Whether the next `act` asks the policy for a chunk; else it goes on with the one that there is."""
        return self._step % (self.n_action_steps * self.stride) == 0

    def load_weights(self, weights: Weights) -> None:
        """Take over newer weights; the episode goes on, and they count from the next chunk on.

        Raises:
            CheckpointError: they are not those of this policy; nothing is taken over then.
        """
        assert self.models is not None
        load_weights(self.policy, self.models, weights)

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the next action.

        Args:
            observation: feature → value of its shape in the dataset, with a leading N after `reset` with N
                seeds; features that the policy does not use may be there too.

        Returns:
            float32 `(A,)` or `(N, A)`, in the units of the dataset; float64 where its numbers have offsets
            that float32 cannot hold.

        Raises:
            ValueError: an observation is missing, has another shape than in the dataset, or holds what the
                dataset cannot hold.
        """
        missing = [k for k in self.observation_windows if k not in observation]
        if missing:
            needs = ", ".join(str(self.observations.get(k, k)) for k in missing)
            raise ValueError(f"the policy needs {needs}; it was given {', '.join(observation) or 'nothing'}")
        frame = {k: self._measured(k, observation[k]) for k in self.observation_windows if self._reads(k)}
        self._history = [*(self._history or [frame] * (self.memory - 1)), frame][-self.memory :]
        position = self._step % (self.n_action_steps * self.stride)
        if self.asks_next:
            self._plan = self._predict()
            if self._ensemble is not None:
                self._plan = self._ensemble.next(self._plan)[:, None]
        assert self._plan is not None
        self._step += 1
        action = self._plan[:, position // self.stride]
        return action[0] if self._single else action

    def _reads(self, key: str) -> bool:
        """Whether a chunk will read the observation of this step; pictures that none reads are not looked at.

        Of the first step all are, because it stands for the time before it.
        """
        if key not in self._pictures or not self._history:
            return True
        period = self.n_action_steps * self.stride
        return any((self._step - offset) % period == 0 for offset in self.observation_windows[key])

    def _measured(self, key: str, value: object) -> np.ndarray:
        """Return an observation `(N, *shape)` as the dataset would have it."""
        if key in self.observations:
            return measured(self.observations[key], value, None if self._single else self._robots)
        array = np.asarray(value)
        return array[None] if self._single else array

    def __repr__(self) -> str:
        """Return what the policy needs and gives, a line each."""
        rate = "" if self.fps is None else f", to be called {self.fps:g} times per second"
        lines = [f"Policy {type(self.policy).__name__}{rate}"]
        for key, offsets in self.observation_windows.items():
            past = (
                "" if offsets == (0,) else f", of frames {', '.join(map(str, offsets))} (kept by the policy)"
            )
            lines.append(f"  observes {self.observations.get(key, key)}{past}")
        executed = (
            f"{self.n_action_steps} of each chunk"
            if self._ensemble is None
            else f"averaged over overlapping chunks (temporal ensembling, m = {self._ensemble.m:g})"
        )
        lines.append(f"  gives {self.actions or ACTION}, {executed}")
        return "\n".join(lines)

    @torch.inference_mode()
    def _predict(self) -> np.ndarray:
        """Return a chunk `(N, H, A)` from the present action on, in the units of the dataset."""
        batch = {key: self._stack(key, offsets) for key, offsets in self.observation_windows.items()}
        batch = {k: v for k, v in self.normalizer.normalize(batch).items() if isinstance(v, Tensor)}
        batch = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
        observation = scale_images({k: v.to(self.device) for k, v in batch.items()}, self._cameras)
        with random_source(self._random):
            chunk = self.policy.predict_action(observation, Context(self._random))
        whole: np.ndarray = self.normalizer.denormalize(self.action_key, chunk.float().cpu()).numpy()
        return whole[:, self.first_action :]

    def _stack(self, key: str, offsets: Sequence[int]) -> Tensor:
        """Return the window `(N, T, …)` of one feature as a batch has it in training.

        Offsets are ≤ 0 and 0 is the newest frame. Camera frames come as `(N, C, H, W)` where one is asked
        for.
        """
        values = window([self._history[len(self._history) - 1 + offset][key] for offset in offsets])
        if self._cameras is None:
            return _undescribed(key, values)
        stacked = torch.from_numpy(values)
        return stacked[:, 0] if key in self._cameras and len(offsets) == 1 else stacked


def _undescribed(key: str, values: np.ndarray) -> Tensor:
    """Return what no dataset describes as it most likely was: pictures by their names, else float32."""
    if not is_camera(key):
        return torch.from_numpy(values.astype(np.float32))
    if values.shape[-1] == 3 and values.shape[-3] != 3:
        values = np.ascontiguousarray(np.moveaxis(values, -1, -3))
    frames = torch.from_numpy(values if values.dtype == np.uint8 else values.astype(np.float32))
    return frames[:, 0] if values.shape[1] == 1 else frames


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
    params = _converted(trainer_class, trainer_spec)
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


def load_weights(policy: Objective, models: nn.ModuleDict, weights: Weights) -> None:
    """Let a policy have other weights, strictly.

    Args:
        policy: whose they are.
        models: its components.
        weights: component → its state, and `OWN` → that of the policy beside its components.

    Raises:
        CheckpointError: they are not those of this policy; it stays as it was.
    """
    for name, state in weights.items():
        if name != OWN and name not in models:
            raise CheckpointError(f"the weights are of a component '{name}', which the policy does not have")
        if name != OWN:
            check_fits(name, models[name].state_dict(), state, "what was published")
    if OWN in weights:
        load_own_state(policy, models, weights[OWN])
    for name, state in weights.items():
        if name != OWN:
            models[name].load_state_dict(state, strict=True)


def load_component(module: nn.Module, path: Path) -> None:
    """Load the weights of one component strictly.

    Raises:
        CheckpointError: the file is missing, or its tensors are not those of the component.
    """
    state = load_tensors(path)
    check_fits(path.stem, module.state_dict(), state, path)
    module.load_state_dict(state, strict=True)


def _converted(plugin: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a spec as its receiver takes them; earlier versions saved them as written."""
    given = spec.get("params") or {}
    converted, _ = convert_parameters(given, receivers(plugin), FRAMEWORK_ARGUMENTS)
    return dict(given) if converted is None else converted


def _loss_spec(config: Mapping[str, Any]) -> ComponentSpec | None:
    spec = config["train"].get("loss")
    return None if spec is None else ComponentSpec.model_validate(spec)


def build_models(paths: Mapping[str, Path], pretrained: bool = True) -> nn.ModuleDict:
    """Build the components of a policy, in the order of `paths`.

    Args:
        paths: component → model YAML.
        pretrained: read the weights of others that the YAMLs name; in vain where all weights are loaded next.
    """
    if not paths:
        return nn.ModuleDict()
    with contextlib.nullcontext() if pretrained else without_pretrained_weights():
        built = PolicyConstructorModelFactory().build(paths)
    assert isinstance(built, nn.ModuleDict)
    return built


def own_state(policy: Objective, models: nn.ModuleDict) -> dict[str, Tensor]:
    """Return the live parameters and buffers that a policy, its loss included, has beside its components."""
    of_components = {id(t) for t in (*models.parameters(), *models.buffers())}
    return {k: v for k, v in policy.state_dict(keep_vars=True).items() if id(v) not in of_components}


def load_own_state(policy: Objective, models: nn.ModuleDict, state: Mapping[str, Tensor]) -> None:
    """Take up what `own_state` returned.

    Raises:
        CheckpointError: the policy has other parameters and buffers of its own.
    """
    own = own_state(policy, models)
    if own.keys() != state.keys() or any(own[k].shape != state[k].shape for k in own):
        raise CheckpointError(
            f"the policy's own state is {', '.join(sorted(own)) or 'nothing'}, but the checkpoint has "
            f"{', '.join(sorted(state)) or 'nothing'}, or other shapes"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def build_policy(
    policy_class: type[Built], components: nn.ModuleDict, loss: nn.Module | None, params: Mapping[str, Any]
) -> Built:
    """Return a policy or an objective.

    Args:
        policy_class: its constructor takes the components, the loss if it names it, and parameters.
        components: what it calls.
        loss: of `train.loss`.
        params: of `train.trainer`, converted; those of a trainer are among them.

    Raises:
        ValueError: a parameter cannot be used, or there is a loss and the constructor takes none.
    """
    own = own_parameters(policy_class, params)
    if "loss" in inspect.signature(policy_class).parameters:
        own["loss"] = loss
    elif loss is not None:
        raise ValueError(f"{policy_class.__name__} takes no loss, so train.loss would have no effect")
    return policy_class(components, **own)


def build_loss(spec: ComponentSpec | None) -> nn.Module | None:
    """Build the loss module of a `train.loss` section, or None without one."""
    if spec is None:
        return None
    factory: Any = LOSS_BUILDER_REGISTRY.get(spec.type)
    loss: nn.Module = factory(**_converted(factory, spec.model_dump())).build()
    return loss
