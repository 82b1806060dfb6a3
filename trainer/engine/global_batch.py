"""What each rank takes of a batch that is given for all of them together."""

from __future__ import annotations

import dataclasses

from trainer.data.order import GlobalBatchSampler
from trainer.engine.preflight import Plan, refusal


def share_out(plan: Plan, world_size: int) -> Plan:
    """Return the plan with the batch size of one rank, whichever of the two sizes the configuration gives.

    Args:
        plan: the checked experiment.
        world_size: number of ranks.

    Raises:
        ConfigError: the global batch cannot be divided evenly, or the dataset has less than one.
    """
    whole, parts = plan.config.data.global_batch_size, plan.config.train.accumulate_grad_batches
    if whole is None:
        _check_enough(plan, "batch_size", plan.config.data.batch_size, world_size, parts)
        return plan
    share, rest = divmod(whole, world_size * parts)
    if rest or not share:
        among = [f"{world_size} ranks"] * (world_size > 1) + [f"{parts} batches per update"] * (parts > 1)
        message = f"a global batch of {whole} samples cannot be divided evenly among {' and '.join(among)}"
        raise refusal(plan.located, ("data", "global_batch_size"), message)
    _check_enough(plan, "global_batch_size", share, world_size, parts)
    data = plan.config.data.model_copy(update={"batch_size": share, "global_batch_size": None})
    return dataclasses.replace(plan, config=plan.config.model_copy(update={"data": data}))


def _check_enough(plan: Plan, key: str, share: int, world_size: int, parts: int) -> None:
    samples = getattr(plan.dataset, "samples_per_epoch", None)
    try:
        GlobalBatchSampler(
            len(plan.dataset) if samples is None else samples, share, world_size=world_size, parts=parts
        )
    except ValueError as error:
        raise refusal(plan.located, ("data", key), str(error)) from error
