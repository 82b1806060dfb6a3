"""A metric that is more than a mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Reduction = Literal["mean", "sum", "max", "last"]
_KNOWN = get_args(Reduction)


@dataclass(frozen=True)
class Reduced:
    """A metric of one batch, and how those of all micro-batches and ranks become one number of the update.

    A number without this is averaged. `last` is the number of the last micro-batch of the last rank::

        return {"total": loss, "samples dropped": Reduced(dropped, "sum")}

    Attributes:
        value: a number, or a tensor of one element.
        how: `mean`, `sum`, `max` or `last`.

    Raises:
        ValueError: `how` is none of these.
    """

    value: Any
    how: Reduction = "mean"

    def __post_init__(self) -> None:
        if self.how not in _KNOWN:
            raise ValueError(f"a metric is reduced by {', '.join(_KNOWN)}, not by '{self.how}'")

    def detach(self) -> Reduced:
        """Return the same without the graph of its gradient."""
        return replace(self, value=detached(self.value))


def detached(metric: Any) -> Any:
    """Return a metric without the graph of its gradient."""
    return metric.detach() if hasattr(metric, "detach") else metric


def plain(metric: Any) -> Any:
    """Return the value of a metric."""
    return metric.value if isinstance(metric, Reduced) else metric


def reduction(metric: Any) -> Reduction:
    """Return how a metric is reduced."""
    return metric.how if isinstance(metric, Reduced) else "mean"
