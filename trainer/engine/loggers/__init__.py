"""Where metrics go beside metrics.jsonl; importing this registers what comes with the framework."""

from __future__ import annotations

from trainer.engine.loggers.tensorboard import TensorBoardLogger
from trainer.engine.loggers.wandb import WandbLogger

__all__ = ["TensorBoardLogger", "WandbLogger"]
