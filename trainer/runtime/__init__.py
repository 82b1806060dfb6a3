"""Where a run happens: device, precision, ranks."""

from __future__ import annotations

from trainer.runtime.connect import (
    PRECISIONS,
    Runtime,
    connect,
    environment_rank,
    select_device,
)
from trainer.runtime.rank_loss import AgreedEnd, RankLost

__all__ = [
    "PRECISIONS",
    "AgreedEnd",
    "RankLost",
    "Runtime",
    "connect",
    "environment_rank",
    "select_device",
]
