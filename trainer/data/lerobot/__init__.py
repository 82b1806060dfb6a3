"""LeRobot datasets: reading v3.0 and v2.1, writing v3.0."""

from __future__ import annotations

from trainer.data.lerobot.info import BOOKKEEPING, DatasetInfo, Feature
from trainer.data.lerobot.reader import LeRobotReader
from trainer.data.lerobot.writer import LeRobotWriter

__all__ = ["BOOKKEEPING", "DatasetInfo", "Feature", "LeRobotReader", "LeRobotWriter"]
