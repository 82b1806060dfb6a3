"""Episodes that a configuration names: by number, range and split."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.data.chosen_episodes import chosen_episodes
from trainer.data.errors import EpisodesError

SPLITS = {"train": "0:3", "valid": [7, 4], "none": [], "broken": {"from": 0}, "gone": [0, 30]}
PRESENT = (0, 1, 2, 4, 7)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train", [0, 1, 2]),
        ("valid", [7, 4]),
        (["valid", "1:3", 0], [7, 4, 1, 2, 0]),
        ("0:2", [0, 1]),
        ([4], [4]),
    ],
)
def test_what_is_meant(given: Any, expected: list[int]) -> None:
    assert chosen_episodes(given, PRESENT, SPLITS) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vaild", "'vaild' is no episode number and no split of the dataset; did you mean 'valid'?"),
        ("vaild", "its splits are train, valid, none, broken, gone"),
        ("zzz", "its splits are train, valid"),
        ([3], "there is no episode 3; they are 0, 1, 2, 4, 7"),
        ("gone", "there is no episode 30 of the split 'gone'"),
        (["train", 1], "episode 1 of the split 'train' is chosen more than once"),
        ([1, "train"], "episode 1 of the split 'train' is chosen more than once"),
        ("3:3", "the range '3:3' is empty"),
        ("0:999999999999", "there is no episode 3"),
        ("none", "the split 'none' of the dataset is empty"),
        ("broken", "no range and no list of numbers"),
        ([], "no episode is chosen"),
        ([True], "True is no episode number"),
    ],
)
def test_what_is_not_there(given: Any, message: str) -> None:
    with pytest.raises(EpisodesError) as refused:
        chosen_episodes(given, PRESENT, SPLITS)
    assert message in str(refused.value)


def test_a_dataset_without_splits() -> None:
    with pytest.raises(EpisodesError, match="it has no splits; a range is written as text"):
        chosen_episodes("train", range(3), {})
