"""AdamW that moves on in its learning-rate schedule with every update and keeps it in its state."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch.optim.lr_scheduler import LRScheduler


class ScheduledAdamW(torch.optim.AdamW):
    """AdamW whose `step` also advances its schedule, and whose state holds both.

    It is torch's fused one: one kernel for all parameters, with the same numbers, which on a GPU leaves out
    an update whose gradients are not finite without asking the host.

    Args:
        params: parameters or groups.
        schedule: makes the scheduler of this optimizer.
        **adamw: arguments of `torch.optim.AdamW`.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    """Attributes of the scheduler that the configuration decides, also when a state is loaded."""

    scheduler: LRScheduler

    def __init__(self, params: Any, *, schedule: Callable[[Any], LRScheduler], **adamw: Any) -> None:
        super().__init__(params, fused=True, **adamw)
        self.scheduler = schedule(self)
        self.register_step_post_hook(lambda *_: self.scheduler.step())

    def state_dict(self) -> dict[str, Any]:
        """Return AdamW's state with the key `scheduler` added."""
        schedule = self.scheduler.state_dict() if hasattr(self, "scheduler") else None
        return {**super().state_dict(), "scheduler": schedule}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load AdamW's state, and from the schedule's, where it is there, how far it has come.

        Length and rates of the schedule stay as configured, so that a run which is prolonged decays to its
        new end.
        """
        state = dict(state_dict)
        schedule = state.pop("scheduler", None)
        # Also where the state comes from another optimizer. Before it is loaded, because the loaded groups
        # decide whether torch puts the counts of updates on the device, where the fused update needs them.
        state["param_groups"] = [{**group, "fused": True} for group in state["param_groups"]]
        super().load_state_dict(state)
        if schedule is None:
            return
        own = {name: getattr(self.scheduler, name) for name in self.settings}
        self.scheduler.load_state_dict({**schedule, **own})
        with warnings.catch_warnings():
            # Torch advises against asking between updates: some schedules move when asked; ours do not.
            warnings.simplefilter("ignore", UserWarning)
            rates = self.scheduler.get_lr()
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        self.scheduler._last_lr = list(rates)
