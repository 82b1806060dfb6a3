"""What a dataset's columns are: one description, for training, for the checkpoint, and for the robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from trainer.data.errors import DatasetError
from trainer.data.lerobot.info import BOOKKEEPING, Feature
from trainer.data.normalization import PROPRIO, STATE
from trainer.data.windows import FLAGS
from trainer.templates import TrainingDataset

Kind = Literal["number", "flag", "picture", "text", "bookkeeping"]

ACTION = "action"
"""What the feature that is predicted is called in a batch, whatever the dataset calls it."""


@dataclass(frozen=True)
class Column:
    """One column of a batch, as a dataset has it.

    Attributes:
        name: what it is called in a batch.
        kind: numbers; flags, which are true or false; pictures of a camera; text; or bookkeeping.
        dtype: a numpy type name, `uint8` for pictures, `string` for text.
        shape: of one frame; (3, H, W) for pictures, () for bookkeeping.
        normalization: how it is normalized, None where it stays as it is.
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    normalization: str | None = None

    @property
    def is_picture(self) -> bool:
        """Whether it holds the frames of a camera."""
        return self.kind == "picture"

    def __str__(self) -> str:
        """Return it in a few words."""
        shape = " × ".join(map(str, self.shape)) or "one"
        how = "" if self.is_picture else f", normalized by {self.normalization}" if self.normalization else ""
        return f"{self.name}: {shape} {self.dtype}{' picture' if self.is_picture else ''}{how}"


Columns = dict[str, Column]


def describe(feature: Feature, name: str | None = None) -> Column:
    """Return what a column of a dataset is.

    Raises:
        DatasetError: a camera's frames are not of three channels of colour.
    """
    name = name or feature.name
    if feature.is_frames:
        return Column(name, "picture", "uint8", feature.frame_shape)
    if feature.name in BOOKKEEPING:
        return Column(name, "bookkeeping", feature.dtype, ())
    if not feature.is_numeric:
        return Column(name, "text", "string", ())
    return Column(name, "flag" if feature.dtype == "bool" else "number", feature.dtype, feature.shape)


def columns_of(dataset: TrainingDataset) -> Columns | None:
    """Return what a dataset says of its columns, or what can be told from its `facts()`; None if nothing."""
    return from_facts(dataset.facts()) if dataset.columns is None else dict(dataset.columns)


def from_facts(facts: Mapping[str, Any]) -> Columns | None:
    """Return the columns of a dataset from its `facts()`, also as they were kept in a checkpoint.

    Facts that do not describe their columns do describe features and windows, as a rule.
    """
    described = facts.get("columns")
    if described is not None:
        return {
            name: Column(name, one["kind"], one["dtype"], tuple(one["shape"]), one.get("normalization"))
            for name, one in described.items()
        }
    features, windows = facts.get("features") or {}, facts.get("windows") or {}
    if not windows or not all(name in features for name in windows):
        return None
    try:
        return {
            name: describe(Feature(name, str(one["dtype"]), tuple(one["shape"]), one.get("names")))
            for name, one in ((name, features[name]) for name in windows)
        }
    except (DatasetError, KeyError, TypeError):
        return None


def to_facts(columns: Mapping[str, Column], normalization: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return columns ready for JSON, with how each is normalized where that is known."""
    how = normalization or {}
    return {n: asdict(replace(column, normalization=how.get(n))) for n, column in columns.items()}


def pictures_of(dataset: TrainingDataset) -> frozenset[str] | None:
    """Return the names of a dataset's cameras; None if it tells nothing of them."""
    columns = columns_of(dataset)
    named = frozenset(dataset.image_keys)
    if columns is None:
        return named or None
    return named | {name for name, column in columns.items() if column.is_picture}


def robot_shapes(columns: Columns) -> dict[str, tuple[int, ...]]:
    """Return the shapes of columns as simulators tell theirs: pictures (H, W, 3)."""
    return {n: (*c.shape[1:], c.shape[0]) if c.is_picture else c.shape for n, c in columns.items()}


def observations_of(columns: Columns) -> list[str]:
    """Return the names of what is measured: numbers, flags and pictures, but not the action."""
    return [n for n, c in columns.items() if n != ACTION and c.kind in ("number", "flag", "picture")]


def names_beside(keys: Mapping[str, str]) -> dict[str, str]:
    """Return the names that columns bring into a sample beside their own, each with what it is.

    Args:
        keys: name in a sample → column of the dataset.
    """
    names = {f"{name}{FLAGS}": f"the flags of the window of '{key}'" for name, key in keys.items()}
    return names | ({PROPRIO: f"the copy of '{STATE}'"} if STATE in keys else {})


def named_alike(name: str, what: str) -> str:
    """Say that a column has the name of something else."""
    return (
        f"the column '{name}' has the name of {what} in a sample; leave it out, by naming the features to use"
    )
