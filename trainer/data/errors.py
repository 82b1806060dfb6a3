"""What is wrong with a dataset on disk, said in one sentence."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset cannot be read or written as asked; the text names the file, and mostly the episode."""


class EpisodesError(DatasetError):
    """Episodes are asked for that a dataset does not have, or twice.

    Attributes:
        message: one sentence without its full stop.
        hint: what there is.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


class WindowError(DatasetError):
    """A window of time steps does not fit the dataset.

    Attributes:
        key: the feature whose window it is.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
