"""Looking at a LeRobot dataset: what is in it, and everything that is wrong with it at once."""

from trainer.data.inspection.findings import Finding
from trainer.data.inspection.inspection import Inspection, inspect_dataset

__all__ = ["Finding", "Inspection", "inspect_dataset"]
