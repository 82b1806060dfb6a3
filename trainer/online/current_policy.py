"""The policy with which a robot collects: built from what the learner sent, and renewed as versions come."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.checkpoint.names import DATASET, MANIFEST
from trainer.data.columns import ACTION
from trainer.data.statistics import mixture_key
from trainer.deployment.deployed_policy import DeployedPolicy
from trainer.deployment.robot_policy import policy_from, robot_facts
from trainer.online.remote import Gone, resolved
from trainer.online.state_manager import unpack_files
from trainer.online.weights import unpack
from trainer.utils.errors import UsageError

_POLL_SECONDS = 0.2


class CurrentPolicy:
    """The newest policy that a robot has, and how new it is.

    Args:
        manager: the policy state manager; its methods return their results.
        reader: name of the robot or worker.
        device: where the policy computes.
        n_action_steps: actions executed of each chunk; the policy's own number if not given.

    Attributes:
        policy: what acts; None until the first version has come.
        version: of its weights; 0 until then.
        step: updates that the learner had made.
        total_steps: those of the whole run, if known.
        facts: what the dataset of the robot says of itself.
    """

    def __init__(
        self, manager: Any, reader: str, device: str = "auto", n_action_steps: int | None = None
    ) -> None:
        self._manager = manager
        self._reader = f"{reader} {uuid.uuid4().hex}"  # started again, it has nothing of what it had before
        self._device, self._n_action_steps = device, n_action_steps
        self._published: float | None = None
        self.policy: DeployedPolicy | None = None
        self.version = 0
        self.step = 0
        self.total_steps: int | None = None
        self.facts: dict[str, Any] = {}

    @property
    def share(self) -> float:
        """The share of the run's updates that the learner had made."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0

    def refresh(self) -> bool:
        """Take up the newest version if there is a newer one, and return whether there was.

        Raises:
            UsageError, CheckpointError: a policy cannot be built of it.
        """
        state = self._manager.get_state(self._reader, newer_than=self.version)
        if state is None:
            return False
        try:
            weights = resolved(state["weights"])
        except Gone:
            state = self._manager.stored_state()
            if state is None or state["version"] <= self.version:
                return False
            weights = resolved(state["weights"])
        if self.policy is None:
            self._build(weights)
        else:
            self.policy.load_weights(unpack(weights))
        self.version, self.step = state["version"], state["step"] or 0
        self._published = state["time"]
        return True

    def wait(self, stop: Callable[[], bool] = lambda: False, timeout: float = float("inf")) -> bool:
        """Wait for the first version and return whether it has come.

        Args:
            stop: ends the waiting when it returns True.
            timeout: in seconds.
        """
        until = time.monotonic() + timeout
        while self.policy is None and not self.refresh():
            if stop() or time.monotonic() > until:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def delay(self) -> float | None:
        """Return the seconds from the publication of this version to now, the first time that it is asked."""
        published, self._published = self._published, None
        return None if published is None else max(0.0, time.time() - published)

    def action_range(self) -> np.ndarray | None:
        """Return how far apart the largest and the smallest action of the demonstrations are, `(A,)`."""
        assert self.policy is not None
        known = self.policy.normalizer.to_dict()
        stats = known["stats"].get(mixture_key(known["dataset"], ACTION))
        return None if stats is None else np.asarray(stats["max"] - stats["min"], np.float64)

    def _build(self, weights: Mapping[str, Mapping[str, Any]]) -> None:
        try:
            description = resolved(self._manager.description())
        except Gone:  # the manager was started again in between
            description = resolved(self._manager.description())
        if description is None:
            raise UsageError(
                "the weights came without a description of their policy, so no policy can be built; send "
                "update_weights(…, description=policy_description(experiment)) with the first version"
            )
        with tempfile.TemporaryDirectory(prefix="trainer-policy-") as name:
            folder = Path(name)
            unpack_files(description, folder)
            self.policy = policy_from(folder, unpack(weights), self._device, self._n_action_steps, trust=None)
        self.facts = robot_facts(json.loads(description[DATASET]))
        self.total_steps = json.loads(description.get(MANIFEST, b"{}")).get("total_steps")
