"""What each rank takes of a batch that is given for all of them together."""

from __future__ import annotations

import dataclasses

from trainer.engine.preflight import Plan, refusal


def share_out(plan: Plan, world_size: int) -> Plan:
    """Return the plan with the batch size of one rank, whichever of the two sizes the configuration gives.

    Args:
        plan: the checked experiment.
        world_size: number of ranks.

    Raises:
        ConfigError: the global batch cannot be divided evenly.
    """
    whole, parts = plan.config.data.global_batch_size, plan.config.train.accumulate_grad_batches
    if whole is None:
        return plan
    share, rest = divmod(whole, world_size * parts)
    if rest or not share:
        among = [f"{world_size} ranks"] * (world_size > 1) + [f"{parts} batches per update"] * (parts > 1)
        message = f"a global batch of {whole} samples cannot be divided evenly among {' and '.join(among)}"
        raise refusal(plan.located, ("data", "global_batch_size"), message)
    data = plan.config.data.model_copy(update={"batch_size": share, "global_batch_size": None})
    return dataclasses.replace(plan, config=plan.config.model_copy(update={"data": data}))
