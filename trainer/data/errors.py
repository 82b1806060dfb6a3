"""What is wrong with a dataset on disk, said in one sentence."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset cannot be read or written as asked; the text names the file, and mostly the episode."""


class WindowError(DatasetError):
    """A window of time steps does not fit the dataset.

    Attributes:
        key: the feature whose window it is.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
