"""Taking over demonstrations in the formats of other projects: they become LeRobot v3.0 datasets."""

from trainer.data.conversion.convert import FORMATS, Converted, convert

__all__ = ["FORMATS", "Converted", "convert"]
