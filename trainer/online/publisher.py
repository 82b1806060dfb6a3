"""What the learner sends to the robots: the weights that would be deployed, and what belongs to them."""

from __future__ import annotations

import io
import json

import numpy as np
import torch

from trainer.checkpoint.names import MANIFEST
from trainer.deployment.policy_parts import OWN, own_state
from trainer.engine.experiment import Experiment
from trainer.online.weights import pack
from trainer.templates import Policy
from trainer.utils.errors import UsageError

Description = dict[str, bytes]
"""Path in a checkpoint folder → content: all that robots need beside the weights that train."""


def deployed_weights(experiment: Experiment, bf16: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """Return what a checkpoint of now would have, of the components that train. All ranks meet.

    The average where there is one, and what a schedule-free optimizer deploys. What the policy has beside its
    components stands under `""`. On a CPU the arrays may share the memory of the weights, so they are sent or
    copied before the next update.

    Args:
        experiment: the run.
        bf16: round float32 to bfloat16.

    Raises:
        UsageError: nothing of it acts.
    """
    policy = _acting(experiment)
    weights = experiment.saving.weights_to_deploy()
    own = own_state(policy, experiment.models)
    if own:
        weights[OWN] = own
    return pack(weights, bf16)


def policy_description(experiment: Experiment) -> Description:
    """Return what a checkpoint of now would hold beside these weights; `policy_from` builds a policy of both.

    These are the resolved configuration, the model YAMLs, what the dataset says of itself, the statistics,
    the weights of frozen components, and the manifest without its list of files. For rank 0.

    Raises:
        UsageError: nothing of the run acts.
    """
    _acting(experiment)
    run, saving = experiment.run, experiment.saving
    description = {str(path.relative_to(run)): path.read_bytes() for path in saving.files()}
    for name, component in experiment.components.items():
        if not component.trained:
            content = io.BytesIO()
            torch.save(component.full_state(), content)
            description[f"{name}.pt"] = content.getvalue()
    description[MANIFEST] = json.dumps(saving.facts()).encode()
    return description


def _acting(experiment: Experiment) -> Policy:
    if not isinstance(experiment.policy, Policy):
        kind = experiment.config.train.trainer.type
        raise UsageError(f"trainer '{kind}' trains nothing that acts, so robots cannot collect with it")
    return experiment.policy
