"""Numbers in words."""

from __future__ import annotations

import pytest

from trainer.utils.text import count_short


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (999, "999"),
        (1000, "1 k"),
        (417_300, "417 k"),
        (999_499, "999 k"),
        (999_700, "1 M"),
        (-999_700, "-1 M"),
        (2_031_000, "2.03 M"),
        (999_600_000, "1 G"),
        (1.5e12, "1.5 T"),
    ],
)
def test_a_count_has_the_unit_of_what_is_shown(count: float, shown: str) -> None:
    assert count_short(count) == shown
