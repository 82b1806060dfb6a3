"""Reading, checking and locating the experiment YAML; knows nothing of torch."""

from __future__ import annotations

from trainer.config.loader import load_config
from trainer.config.validation import validate_config

__all__ = ["load_config", "validate_config"]
