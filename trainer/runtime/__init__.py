"""Where a run happens: device, precision, ranks."""

from __future__ import annotations

from trainer.runtime.connect import (
    PRECISIONS,
    Runtime,
    a_rank_is_lost,
    connect,
    environment_rank,
    said_by_main_rank,
    select_device,
)
from trainer.runtime.rank_monitor import AgreedEnd, RankLost

__all__ = [
    "PRECISIONS",
    "AgreedEnd",
    "RankLost",
    "Runtime",
    "a_rank_is_lost",
    "connect",
    "environment_rank",
    "said_by_main_rank",
    "select_device",
]
