"""A value by its path in nested containers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trainer.utils.selection import select

TREE = {
    "train": {"loggers": [{"type": "wandb"}, {"type": None}]},
    "box": SimpleNamespace(size=(3, 4)),
    "1": "x",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.loggers.0.type", "wandb"),
        (("train", "loggers", 0, "type"), "wandb"),
        ("box.size.1", 4),
        ("1", "x"),
        ((), TREE),
        ("train.loggers.1.type", None),
    ],
)
def test_a_path_leads_to_its_value(key: str, value: object) -> None:
    assert select(TREE, key, default="nothing") == value


@pytest.mark.parametrize(
    "key", ["train.logger", "train.loggers.2", "train.loggers.-1", "box.__class__", "1.2", "box.weight"]
)
def test_a_path_that_leads_nowhere_gives_the_default(key: str) -> None:
    assert select(TREE, key, default="nothing") == "nothing"
    assert select(TREE, key) is None
