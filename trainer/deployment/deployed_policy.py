"""What a robot calls: raw observations in, raw actions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from model_constructor import random_source
from torch import Tensor, nn

from trainer.data.columns import ACTION, Column, Columns, from_facts, observations_of, robot_shapes
from trainer.data.images import is_camera, scale_images
from trainer.data.measured import measured, window
from trainer.data.normalization import Normalizer
from trainer.deployment.policy_parts import Weights, load_weights
from trainer.deployment.temporal_ensemble import TemporalEnsemble
from trainer.modeling.observations import PREFIX
from trainer.templates import Context
from trainer.utils.errors import UsageError
from trainer.utils.random import RowRandom
from trainer.utils.text import what_it_is


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
        asked = n_action_steps, getattr(policy, "n_action_steps", None)
        chosen = next((n for n in asked if n is not None), max(1, horizon // 2))
        if not 1 <= chosen <= horizon:
            raise UsageError(
                f"n_action_steps is {chosen}, but a chunk holds 1 to {horizon} actions from now on"
            )
        self.n_action_steps = int(chosen)
        self.memory = 1 + max((-min(o) for o in self.observation_windows.values()), default=0)
        self.reset()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what it reads and gives, as simulators tell theirs: pictures (H, W, 3)."""
        actions = {} if self.actions is None else {self.action_key: self.actions}
        return robot_shapes({**self.observations, **actions})

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
            UsageError: an observation is missing, has another shape than in the dataset, or holds what the
                dataset cannot hold.
        """
        if not isinstance(observation, Mapping):
            raise ValueError(
                f"the policy needs its observations by name, it was given {what_it_is(observation)}"
            )
        missing = [k for k in self.observation_windows if k not in observation]
        if missing:
            needs = ", ".join(str(self.observations.get(k, k)) for k in missing)
            raise UsageError(f"the policy needs {needs}; it was given {', '.join(observation) or 'nothing'}")
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
