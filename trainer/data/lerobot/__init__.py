"""LeRobot datasets: reading v3.0 and v2.1, writing v3.0.

Reader and writer are imported when they are first used: a robot that loads a policy normalizes by the names
in `info` and has neither pyarrow nor a video decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.data.lerobot.info import BOOKKEEPING, DatasetInfo, Feature
from trainer.utils.import_utils import lazy_attributes

if TYPE_CHECKING:
    from trainer.data.lerobot.reader import LeRobotReader
    from trainer.data.lerobot.writer import LeRobotWriter

__all__ = ["BOOKKEEPING", "DatasetInfo", "Feature", "LeRobotReader", "LeRobotWriter"]

__getattr__ = lazy_attributes(
    __name__,
    {"LeRobotReader": "trainer.data.lerobot.reader", "LeRobotWriter": "trainer.data.lerobot.writer"},
)
